"""The API server's HTTP interface over a Unix socket (`kubectl proxy`), which is reached from outside its namespace."""

import http.client
import json
import socket
import time


class Refused(Exception):
    """The server's answer to a request that it did not carry out."""

    def __init__(self, status, message):
        super().__init__(f"{status}: {message}")
        self.status = status


class Connection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Api:
    def __init__(self, socket_path):
        self.socket_path = socket_path

    def open(self, method, path, body=None, kind="json", timeout=30):
        """The response, still to be read. Throws Refused, or OSError while nobody listens."""
        connection = Connection(self.socket_path, timeout)
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"Content-Type": f"application/{kind}"})
        response = connection.getresponse()
        if response.status >= 400:
            raise Refused(response.status, response.read().decode())
        return response

    def get(self, path):
        return json.load(self.open("GET", path))

    def find(self, path):
        """The object, or None where there is none."""
        try:
            return self.get(path)
        except Refused as refused:
            if refused.status != 404:
                raise
            return None

    def post(self, path, body):
        return json.load(self.open("POST", path, body))

    def patch(self, path, body):
        return json.load(self.open("PATCH", path, body, kind="merge-patch+json"))

    def delete(self, path, **options):
        return json.load(self.open("DELETE", path, options or None))


def eventually(condition, what, seconds=60):
    """Waits until `condition()` is true and returns what it returned; a refused request is no more than false.

    `what` is the text for the failure, or a function that makes it then.
    """
    deadline = time.monotonic() + seconds
    while True:
        last = None
        try:
            if last := condition():
                return last
        except (Refused, OSError, http.client.HTTPException) as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what() if callable(what) else what}; at the end: {last!r}")
        time.sleep(0.1)


def never(condition, what, seconds=2):
    """Looks for so long whether `condition()` stays false."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert not condition(), what
        time.sleep(0.1)

"""The network of pods without a container engine: a bridge, a namespace for each pod, and the names that resolve there."""

import itertools
import os
import subprocess
from typing import NamedTuple

NUMBERS = itertools.count(1)


def ip(*words):
    subprocess.run(["ip", *map(str, words)], check=True)


class Link(NamedTuple):
    namespace: str
    address: str


class Network:
    """A namespace with a bridge. It wants root."""

    def __init__(self):
        self.name = f"rankwise-{os.getpid()}-{next(NUMBERS)}"
        self.numbers = itertools.count(1)
        self.namespaces = []

    def __enter__(self):
        self._add_namespace(self.name)
        ip("-n", self.name, "link", "add", "bridge", "type", "bridge")
        ip("-n", self.name, "link", "set", "bridge", "up")
        return self

    def __exit__(self, *_):
        for name in self.namespaces:
            ip("netns", "delete", name)

    def _add_namespace(self, name):
        ip("netns", "add", name)
        self.namespaces.append(name)
        ip("-n", name, "link", "set", "lo", "up")

    def add(self):
        """A namespace for a pod, with an address of its own."""
        number = next(self.numbers)
        link = Link(f"{self.name}-{number}", f"10.88.0.{number}")
        outside = f"pod{number}"
        self._add_namespace(link.namespace)
        ip("-n", self.name, "link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", link.namespace)
        ip("-n", self.name, "link", "set", outside, "master", "bridge", "up")
        ip("-n", link.namespace, "address", "add", f"{link.address}/24", "dev", "eth0")
        ip("-n", link.namespace, "link", "set", "eth0", "up")
        return link

    def cut(self, link):
        """The pod hears and says nothing any more."""
        ip("-n", link.namespace, "link", "set", "eth0", "down")

    def mend(self, link):
        ip("-n", link.namespace, "link", "set", "eth0", "up")


class Names:
    """A file like /etc/hosts that is mounted in pods and changes under them: a name keeps its line, written as a whole."""

    WIDTH = 256

    def __init__(self, path):
        self.path, self.lines = path, {}
        path.write_text("127.0.0.1 localhost\n".rjust(self.WIDTH))

    def set(self, name, address):
        """`address` None: the name is not known (any more)."""
        line = self.lines.setdefault(name, len(self.lines) + 1)
        text = f"{address} {name}" if address else f"# {name}"
        with self.path.open("r+b") as file:
            os.pwrite(file.fileno(), f"{text:<{self.WIDTH - 1}}\n".encode(), line * self.WIDTH)

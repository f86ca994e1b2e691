"""Prometheus' own programs: promtool, and a server that scrapes a run."""

import contextlib
import functools
import json
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request

import yaml

from program import PATIENCE, ROOT, Process


@functools.cache
def binary(name):
    package = "prometheus-pushgateway" if name == "prometheus-pushgateway" else "prometheus"
    subprocess.run([ROOT / "tools/fetch_deb.sh", package], check=True, timeout=300)
    return ROOT / ".deps" / package / "usr/bin" / name


def promtool(*arguments, **options):
    return subprocess.run(
        [binary("promtool"), *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False, **options
    )


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def neighbouring_ports():
    """Two free ports, one behind the other."""
    while True:
        first = free_port()
        with contextlib.suppress(OSError, OverflowError), socket.socket() as probe:
            probe.bind(("127.0.0.1", first + 1))
            return first, first + 1


class Server:
    """One of Prometheus' programs, on a free port of loopback; a context manager that leaves nothing behind."""

    def __init__(self, directory):
        self.directory = directory
        self.address = f"127.0.0.1:{free_port()}"

    def start(self, name, *arguments):
        with (self.directory / f"{name}.log").open("wb") as log:
            self.popen = subprocess.Popen(
                [binary(name), f"--web.listen-address={self.address}", *arguments],
                cwd=self.directory,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.process = Process(self.popen.pid)

    def __exit__(self, *_):
        self.process.kill()
        self.popen.wait(PATIENCE)


class Pushgateway(Server):
    def __enter__(self):
        self.directory.mkdir(exist_ok=True)
        self.start("prometheus-pushgateway")
        return self


class Prometheus(Server):
    """Scrapes one metrics page as job "rankwise"."""

    def __init__(self, directory, metrics_url, rule_files=()):
        super().__init__(directory)
        target = {"targets": [urllib.parse.urlparse(metrics_url).netloc]}
        self.configuration = {
            "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"},
            "rule_files": [str(file) for file in rule_files],
            "scrape_configs": [{"job_name": "rankwise", "static_configs": [target]}],
        }

    def __enter__(self):
        self.directory.mkdir(exist_ok=True)
        configuration = self.directory / "prometheus.yml"
        configuration.write_text(yaml.safe_dump(self.configuration))
        self.start("prometheus", f"--config.file={configuration}", f"--storage.tsdb.path={self.directory / 'tsdb'}")
        return self

    def __exit__(self, *exception):
        super().__exit__(*exception)
        shutil.rmtree(self.directory / "tsdb", ignore_errors=True)

    def get(self, path, **parameters):
        """The data of an answer; None while nobody answers. A refused query fails with what the server says of it."""
        try:
            with urllib.request.urlopen(
                f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=10
            ) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            assert error.code == 503, f"{parameters}: {error.read().decode()}"  # 503: still starting
        except OSError:
            return None

    def query(self, expression):
        """All values of an instant query: [] for no data."""
        data = self.get("query", query=expression)
        return [float(series["value"][1]) for series in data["result"]] if data else []

"""The metrics endpoint under 100 stalled connections and a flood of requests: what it costs the training, and scrapes.

One rank on one core; its endpoint and the clients on another. Blocks of steps by turns, so that what else the machine
does meets all of them: quiet; under the load; and with the same load on another server on that core, which shows what
two cores that share a machine cost each other anyway. All of it on 127.0.0.1, bounded in number and time. Writes what was
measured to tests/faults/results/endpoint.md.
"""

import argparse
import contextlib
import math
import multiprocessing
import os
import socket
import socketserver
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlparse

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/e2e"))
from fault_counts import machine  # noqa: E402
from program import Process, fetch  # noqa: E402
from runs import Run, Tiny  # noqa: E402

KINDS = ["quiet", "load", "other"]
STALLED, FLOODERS = 100, 4
SCRAPE_LIMIT_MS, SLOWER_LIMIT_PERCENT = 100, 2
REQUEST = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


def ask(address):
    """The seconds of one scrape, which must be whole."""
    began = time.monotonic()
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(REQUEST)
        answer = b""
        while piece := connection.recv(1 << 16):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 200 ") and b"rankwise_train_steps_total" in answer
    return time.monotonic() - began


class Answer(socketserver.BaseRequestHandler):
    """A page to who asks for it; a request that is not whole within a second is dropped, as the endpoint does."""

    page = b""

    def handle(self):
        self.request.settimeout(1)
        asked = b""
        with contextlib.suppress(OSError):
            while not asked.endswith(b"\r\n\r\n"):
                if not (piece := self.request.recv(4096)):
                    return
                asked += piece
            self.request.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + self.page)


class OtherServer(socketserver.ThreadingTCPServer):
    daemon_threads, request_queue_size = True, 128


@contextlib.contextmanager
def other_server(page):
    """The address of a process that serves the same page."""
    Answer.page = page
    with OtherServer(("127.0.0.1", 0), Answer) as server:
        process = multiprocessing.get_context("fork").Process(target=server.serve_forever, daemon=True)
        process.start()
        try:
            yield server.server_address
        finally:
            process.kill()
            process.join()


class Load:
    """Stalled half requests that are renewed when the server closes them, and requests one after the other."""

    def __init__(self, address):
        self.address, self.ended = address, threading.Event()
        self.requests = self.failures = 0
        self.threads = [threading.Thread(target=self._stall)]
        self.threads += [threading.Thread(target=self._flood) for _ in range(FLOODERS)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        for thread in self.threads:
            thread.join()

    def _stalled_one(self):
        connection = socket.create_connection(self.address, timeout=10)
        connection.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
        return connection

    def _stall(self):
        with contextlib.ExitStack() as stack:
            while not self.ended.wait(0.5):
                stack.close()
                for _ in range(STALLED):
                    with contextlib.suppress(OSError):
                        stack.enter_context(self._stalled_one())

    def _flood(self):
        while not self.ended.is_set():
            try:
                ask(self.address)
                self.requests += 1
            except (OSError, AssertionError):
                self.failures += 1


def scrapes_for(address, seconds):
    """Scrapes ten times a second; the seconds of each, without end for one that was refused."""
    taken, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            taken.append(ask(address))
        except OSError:
            taken.append(math.inf)
        time.sleep(0.1)
    return taken


def pin_endpoint(process, training_core, other_core):
    """The main thread trains; all others of the process (endpoint, watchdog) stay on the other core."""
    for thread in os.listdir(f"/proc/{process.pid}/task"):
        core = training_core if int(thread) == process.pid else other_core
        os.sched_setaffinity(int(thread), {core})


def step_seconds(run, first, last):
    return [entry["step_seconds"] for entry in run.steps() if first < entry["step"] <= last]


def block(run, endpoint, load, seconds):
    """The scrapes of a block, and the mean of its steps."""
    with load:
        time.sleep(1)  # of load, before anything is counted
        first = run.last_step()
        scrapes = scrapes_for(endpoint, seconds)
        last = run.last_step()
    return scrapes, statistics.mean(step_seconds(run, first, last))


def measure(options, directory):
    """Per kind of block, all scrapes and the mean step of each block; and the loads on the endpoint."""
    tiny = Tiny.make(directory)
    run = Run(directory / "run", tiny.settings(train=dict(max_steps=1_000_000, save_steps=0)))
    scrapes, steps, loads = {kind: [] for kind in KINDS}, {kind: [] for kind in KINDS}, []
    with run.start(0) as job:
        url = urlparse(job.metrics_url())
        job.wait_for(lambda: run.last_step() >= 20, "step 20")
        pin_endpoint(Process(job.popen.pid), 0, 1)
        endpoint = (url.hostname, url.port)
        with other_server(fetch(job.metrics_url()).encode()) as other:
            for kind in KINDS * options.rounds:
                load = contextlib.nullcontext() if kind == "quiet" else Load(other if kind == "other" else endpoint)
                taken, mean = block(run, endpoint, load, options.seconds)
                scrapes[kind] += taken
                steps[kind].append(mean)
                loads += [load] if kind == "load" else []
                print(f"{kind}: {1e3 * mean:.3f} ms a step, worst scrape {1e3 * max(taken):.1f} ms", flush=True)
    return scrapes, steps, loads


def p99_ms(seconds):
    return 1e3 * sorted(seconds)[int(0.99 * (len(seconds) - 1))]


def slower(steps, kind, than):
    """In per cent, round by round: the median, and from the least to the most."""
    ratios = sorted(100 * (one / other - 1) for one, other in zip(steps[kind], steps[than], strict=True))
    return statistics.median(ratios), f"{statistics.median(ratios):+.2f} % ({ratios[0]:+.2f} to {ratios[-1]:+.2f})"


def report(options, scrapes, steps, loads):
    requests, failures = sum(load.requests for load in loads), sum(load.failures for load in loads)
    rate = requests / (options.rounds * (options.seconds + 1))
    refused = sum(math.isinf(one) for one in scrapes["load"])
    millis = [f"{p99_ms(scrapes[kind]):.1f} ms" for kind in KINDS]
    means = [f"{1e3 * statistics.mean(steps[kind]):.3f} ms" for kind in KINDS]
    return (
        f"# The metrics endpoint under load\n\n`tests/faults/endpoint_load.py` on {machine()}. The tiny model on one rank, "
        f"pinned to one core; its endpoint and the clients on the other. {options.rounds} rounds of three blocks of "
        f"{options.seconds:g} s: quiet; {STALLED} stalled half requests and {FLOODERS} threads that ask without a pause "
        f"({rate:.0f} requests/s answered, {failures} of {requests + failures} not); the same on another server on that "
        "core.\n\n| | quiet | under load | load elsewhere | wanted |\n|---|---|---|---|---|\n"
        f"| scrape, 99th percentile of {len(scrapes['load'])} | {' | '.join(millis)} | < {SCRAPE_LIMIT_MS} ms |\n"
        f"| scrapes refused under load | | {refused} | | |\n"
        f"| a training step, mean | {' | '.join(means)} | |\n"
        f"| slower than quiet, median of the rounds | | {slower(steps, 'load', 'quiet')[1]} "
        f"| {slower(steps, 'other', 'quiet')[1]} | |\n"
        f"| slower than with the load elsewhere | | {slower(steps, 'load', 'other')[1]} | | < {SLOWER_LIMIT_PERCENT} % |\n"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8, help="of three blocks")
    parser.add_argument("--seconds", type=float, default=3, help="a block")
    parser.add_argument("--output", type=Path, default=ROOT / "tests/faults/results/endpoint.md")
    options = parser.parse_args()
    os.sched_setaffinity(0, {1})
    with tempfile.TemporaryDirectory() as directory:
        scrapes, steps, loads = measure(options, Path(directory))
    text = report(options, scrapes, steps, loads)
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(text)
    print(text)
    met = p99_ms(scrapes["load"]) < SCRAPE_LIMIT_MS and slower(steps, "load", "other")[0] < SLOWER_LIMIT_PERCENT
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()

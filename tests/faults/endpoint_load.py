"""The metrics endpoint under 100 stalled connections and a flood of requests: what it costs the training, and scrapes.

One rank on one core; its endpoint and the clients on another. Blocks of steps by turns: quiet; under the load; quiet;
with the same load on another server on that core, which shows what two cores that share a machine cost each other
anyway. A block is compared with the quiet ones before and behind it, so that what else the machine does meets both, and
quiet blocks are compared in the same way, which shows how far that scatters by itself. All of it on 127.0.0.1, bounded in
number and time. Writes what was measured to tests/faults/results/endpoint.md; exit code 1 where a limit is not kept.
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
ROUND = ["quiet", "load", "quiet", "other"]
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


def progress(run, pid):
    """The last step, and a clock that stands still while the main thread wants its core and a stranger has it."""
    nanoseconds_waited = int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[1])
    return run.last_step(), time.monotonic() - nanoseconds_waited / 1e9


def block(run, pid, endpoint, load, seconds):
    """The scrapes of a block, and its mean step by that clock."""
    with load:
        time.sleep(1)  # of load, before anything is counted
        first, began = progress(run, pid)
        scrapes = scrapes_for(endpoint, seconds)
        last, ended = progress(run, pid)
    return scrapes, (ended - began) / (last - first)


def measure(options, directory):
    """All scrapes by kind of block; (kind, mean step) of each block in turn; and the loads on the endpoint."""
    tiny = Tiny.make(directory)
    run = Run(directory / "run", tiny.settings(train=dict(max_steps=1_000_000, save_steps=0)))
    scrapes, blocks, loads = {kind: [] for kind in KINDS}, [], []
    with run.start(0) as job:
        url = urlparse(job.metrics_url())
        job.wait_for(lambda: run.last_step() >= 20, "step 20")
        pin_endpoint(Process(job.popen.pid), 0, 1)
        endpoint = (url.hostname, url.port)
        with other_server(fetch(job.metrics_url()).encode()) as other:
            for kind in [*ROUND * options.rounds, "quiet"]:
                load = contextlib.nullcontext() if kind == "quiet" else Load(other if kind == "other" else endpoint)
                taken, step = block(run, job.popen.pid, endpoint, load, options.seconds)
                scrapes[kind] += taken
                blocks.append((kind, step))
                loads += [load] if kind == "load" else []
                print(f"{kind}: {1e3 * step:.3f} ms a step, worst scrape {1e3 * max(taken):.1f} ms", flush=True)
    return scrapes, blocks, loads


def p99_ms(seconds):
    return 1e3 * sorted(seconds)[int(0.99 * (len(seconds) - 1))]


def slower(blocks, kind):
    """In per cent, ascending: each block of that kind against the nearest quiet ones before and behind it."""
    away = 2 if kind == "quiet" else 1
    triples = zip(blocks, blocks[away:], blocks[2 * away :], strict=False)
    return sorted(
        100 * (2 * step / (before + behind) - 1) for (_, before), (this, step), (_, behind) in triples if this == kind
    )


def median_and_scatter(percents):
    low, middle, high = statistics.quantiles(percents, n=4, method="inclusive")
    return f"{middle:+.2f} % ({low:+.2f} to {high:+.2f}; all: {percents[0]:+.2f} to {percents[-1]:+.2f})"


def report(options, scrapes, blocks, loads):
    requests, failures = sum(load.requests for load in loads), sum(load.failures for load in loads)
    rate = requests / (options.rounds * (options.seconds + 1))
    refused = sum(math.isinf(one) for one in scrapes["load"])
    millis = [f"{p99_ms(scrapes[kind]):.1f} ms" for kind in KINDS]
    steps = [f"{1e3 * statistics.mean(step for this, step in blocks if this == kind):.3f} ms" for kind in KINDS]
    scatter = [median_and_scatter(slower(blocks, kind)) for kind in KINDS]
    return (
        f"# The metrics endpoint under load\n\n`tests/faults/endpoint_load.py` on {machine()}. The tiny model on one rank, "
        f"pinned to one core; its endpoint and the clients on the other. {options.rounds} rounds of four blocks of "
        f"{options.seconds:g} s: quiet; {STALLED} stalled half requests and {FLOODERS} threads that ask without a pause "
        f"({rate:.0f} requests/s answered, {failures} of {requests + failures} not); quiet; the same load on another "
        "server on that core. A block is compared with the quiet ones before and behind it: the median of all, and in "
        "brackets where the middle half of them lies, and all. Time in which another process had the training's core is left "
        "out: such a process is driven there by the load.\n\n"
        "| | quiet | under load | load elsewhere | wanted under load |\n|---|---|---|---|---|\n"
        f"| scrape, 99th percentile of {len(scrapes['load'])} | {' | '.join(millis)} | < {SCRAPE_LIMIT_MS} ms |\n"
        f"| scrapes refused under load | | {refused} | | |\n"
        f"| a training step, mean | {' | '.join(steps)} | |\n"
        f"| slower than quiet | {' | '.join(scatter)} | median < {SLOWER_LIMIT_PERCENT} % |\n"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="of four blocks")
    parser.add_argument("--seconds", type=float, default=3, help="a block")
    parser.add_argument("--output", type=Path, default=ROOT / "tests/faults/results/endpoint.md")
    options = parser.parse_args()
    os.sched_setaffinity(0, {1})
    with tempfile.TemporaryDirectory() as directory:
        scrapes, blocks, loads = measure(options, Path(directory))
    text = report(options, scrapes, blocks, loads)
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(text)
    print(text)
    kept = p99_ms(scrapes["load"]) < SCRAPE_LIMIT_MS
    kept = kept and statistics.median(slower(blocks, "load")) < SLOWER_LIMIT_PERCENT
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()

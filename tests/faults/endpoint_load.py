"""The metrics endpoint under 100 stalled connections and a flood of requests: what it costs the training, and scrapes.

One rank on one core; endpoint clients on another; blocks of steps without and with the load by turns, so that what else
the machine does meets both. All of it on 127.0.0.1, bounded in number and time. Writes what was measured to
tests/faults/results/endpoint.md.
"""

import argparse
import contextlib
import os
import socket
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
from program import Process  # noqa: E402
from runs import Run, Tiny  # noqa: E402

STALLED = 100
SCRAPE_LIMIT_MS, SLOWER_LIMIT = 100, 0.02
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


class Load:
    """Stalled half requests that are renewed when the server closes them, and requests one after the other."""

    def __init__(self, address, flooders):
        self.address, self.ended = address, threading.Event()
        self.requests = self.failures = 0
        self.threads = [threading.Thread(target=self._stall)]
        self.threads += [threading.Thread(target=self._flood) for _ in range(flooders)]

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
    """Scrapes ten times a second; the seconds of each."""
    taken, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        taken.append(ask(address))
        time.sleep(0.1)
    return taken


def pin_endpoint(process, training_core, other_core):
    """The main thread trains; all others of the process (endpoint, watchdog) stay on the other core."""
    for thread in os.listdir(f"/proc/{process.pid}/task"):
        core = training_core if int(thread) == process.pid else other_core
        os.sched_setaffinity(int(thread), {core})


def step_seconds(run, first, last):
    return [entry["step_seconds"] for entry in run.steps() if first < entry["step"] <= last]


def measure(options, directory):
    """Per kind of block, all scrapes and the mean step of each block; and the number of requests of the flood."""
    tiny = Tiny.make(directory)
    settings = tiny.settings(train=dict(max_steps=1_000_000, save_steps=0, global_batch_size=options.rows))
    run = Run(directory / "run", settings)
    scrapes, steps, requests, failures = {"quiet": [], "load": []}, {"quiet": [], "load": []}, 0, 0
    with run.start(0) as job:
        address = (lambda url: (url.hostname, url.port))(urlparse(job.metrics_url()))
        job.wait_for(lambda: run.last_step() >= 20, "step 20")
        pin_endpoint(Process(job.popen.pid), 0, 1)
        for kind in ["quiet", "load"] * options.rounds:
            with Load(address, options.flooders) if kind == "load" else contextlib.nullcontext() as load:
                time.sleep(1)  # of load, before anything is counted
                first = run.last_step()
                scrapes[kind] += scrapes_for(address, options.seconds)
                last = run.last_step()
            if load:
                requests, failures = requests + load.requests, failures + load.failures
            steps[kind].append(statistics.mean(step_seconds(run, first, last)))
            print(f"{kind}: {last - first} steps of {1e3 * steps[kind][-1]:.3f} ms", flush=True)
    return scrapes, steps, requests, failures


def p99_ms(seconds):
    return 1e3 * sorted(seconds)[int(0.99 * (len(seconds) - 1))]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6, help="of a quiet block and one under load")
    parser.add_argument("--seconds", type=float, default=10, help="a block")
    parser.add_argument("--flooders", type=int, default=4, help="threads that ask without a pause")
    parser.add_argument("--rows", type=int, default=4, help="a step")
    parser.add_argument("--output", type=Path, default=ROOT / "tests/faults/results/endpoint.md")
    options = parser.parse_args()
    os.sched_setaffinity(0, {1})
    with tempfile.TemporaryDirectory() as directory:
        scrapes, steps, requests, failures = measure(options, Path(directory))
    slower = [loaded / quiet - 1 for quiet, loaded in zip(steps["quiet"], steps["load"])]
    rate = requests / (options.rounds * (options.seconds + 1))
    text = (
        f"# The metrics endpoint under load\n\n`tests/faults/endpoint_load.py` on {machine()}. The tiny model on one rank, "
        f"pinned to one core; endpoint and clients on the other. {options.rounds} quiet blocks of {options.seconds:g} s "
        f"and as many under {STALLED} stalled half requests and {options.flooders} threads that ask without a pause "
        f"({rate:.0f} requests/s answered, {failures} not), by turns.\n\n"
        "| | quiet | under load | wanted |\n|---|---|---|---|\n"
        f"| scrape, 99th percentile of {len(scrapes['quiet'])} and {len(scrapes['load'])} | {p99_ms(scrapes['quiet']):.1f} ms "
        f"| {p99_ms(scrapes['load']):.1f} ms | < {SCRAPE_LIMIT_MS} ms |\n"
        f"| a training step, mean | {1e3 * statistics.mean(steps['quiet']):.3f} ms "
        f"| {1e3 * statistics.mean(steps['load']):.3f} ms | |\n"
        f"| slower, median of the rounds | | {100 * statistics.median(slower):+.2f} % "
        f"({100 * min(slower):+.2f} to {100 * max(slower):+.2f}) | < {100 * SLOWER_LIMIT:.0f} % |\n"
    )
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(text)
    print(text)
    met = p99_ms(scrapes["load"]) < SCRAPE_LIMIT_MS and statistics.median(slower) < SLOWER_LIMIT
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()

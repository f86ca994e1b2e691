"""Faults at random moments of a run's whole life, start-up included: how often, and how it is repeated, is said in
fault_counts.py."""

import re
import signal
import time

import pytest

from fault_counts import moments_of_this_session, times, write_row
from kills import wait_for_moment
from launches import Launch, finish, processes_in
from program import read_proc, wait_until
from runs import Run

LONG = dict(max_steps=24, save_steps=8, global_batch_size=8)
KILL_LIMIT_S = 3.0
PATIENCE_S, HANG_LIMIT_S = 3, 4.0  # of the watchdog; until the rank is named
LAST_WORDS = "memory of this rank's tensors, peak"


def takes_signals(process):
    """Whether SIGTERM waits for the launcher to read it: before that, process 1 of a namespace never gets it."""
    blocked = re.search(rb"SigBlk:\s*(\w+)", read_proc(process.pid, "status"))
    return blocked and int(blocked[1], 16) >> (signal.SIGTERM - 1) & 1


class Undisturbed:
    """A whole run: what the disturbed ones must equal, and how long its parts take."""

    def __init__(self, run):
        with Launch(run) as job:
            wait_until(lambda: takes_signals(job.main), "a launcher that takes signals")
            listening = time.monotonic()
            job.rank_processes()
            ranks = time.monotonic()
            job.wait_for_output("preparing data")
            watching = time.monotonic()
            assert job.wait() == 0, job.output()
            end = time.monotonic()
        self.hashes = run.state_hashes()
        self.listening_s, self.ranks_s, self.watched_s = end - listening, end - ranks, end - watching


@pytest.fixture(scope="module")
def undisturbed(tiny, tmp_path_factory):
    return Undisturbed(Run(tmp_path_factory.mktemp("undisturbed"), tiny.settings(train=LONG)))


def attempts(new_run, count, disturb, **changes):
    """Calls disturb(run) until it has met a living run so often; a moment behind a run's end is drawn again."""
    met = []
    for number in range(3 * count):
        if len(met) == count:
            break
        outcome = disturb(new_run(f"run{number}", train=LONG, **changes))
        if outcome is not None:
            met.append(outcome)
    assert len(met) == count, f"only {len(met)} of {3 * count} moments met a running job"
    return met


def assert_saved(run, code, asked_at_step, output):
    """Stopped behind its last step; only the last steps may come too early to be left out."""
    finished = asked_at_step >= LONG["max_steps"] - 3 and (run.output / "final").exists()
    assert code == (0 if finished else 75), f"asked at step {asked_at_step}: exit code {code}:\n{output}"
    assert run.checkpoints()[-1:] == ([run.last_step()] if run.last_step() else []), output


def test_a_stop_at_any_moment_is_saved_and_goes_on(new_run, undisturbed):
    generator, seed = moments_of_this_session()

    def disturb(run):
        moment = generator.uniform(0, undisturbed.listening_s)
        with Launch(run, "--restarts", 0, first_process=True) as job:
            launcher = job.launcher()
            job.wait_for(lambda: takes_signals(launcher), "a launcher that takes signals")
            if not wait_for_moment(job, moment):
                return None
            launcher.send(signal.SIGTERM)
            sent, asked_at_step = time.monotonic(), run.last_step()
            code = job.wait()
            seconds = time.monotonic() - sent
            print(f"SIGTERM after {moment:.2f} s: code {code} in {seconds:.2f} s at step {run.last_step()}")
            assert_saved(run, code, asked_at_step, job.output())
        stopped_at = run.last_step()
        finish(run)
        assert run.state_hashes() == undisturbed.hashes, f"stopped at step {stopped_at}"
        return None if code == 0 else (seconds, stopped_at)

    stops = attempts(new_run, times(50), disturb)
    longest, before = max(seconds for seconds, _ in stops), sum(step == 0 for _, step in stops)
    note = f"exit 75, saved, and an equal adapter after the next start; {before} of them before the first step"
    write_row("SIGTERM to the launcher, process 1", len(stops), len(stops), f"{longest:.2f} s", f"{note}; seed {seed}")


def test_a_rank_killed_at_any_moment_ends_the_job_by_name(new_run, undisturbed):
    generator, seed = moments_of_this_session()

    def disturb(run):
        moment, victim = generator.uniform(0, undisturbed.ranks_s), generator.randrange(2)
        with Launch(run, "--restarts", 0) as job:
            rank = job.rank_processes()[victim]
            if not wait_for_moment(job, moment) or not rank.alive():
                return None
            rank.send(signal.SIGKILL)
            killed = time.monotonic()
            code = job.wait()
            seconds = time.monotonic() - killed
            print(f"SIGKILL of rank {victim} after {moment:.2f} s: code {code} in {seconds:.2f} s")
            assert processes_in(run.directory) == []
            if code == 0 and (run.output / "final").exists():  # it had left already, and waited to be reaped
                return None
            assert code == 128 + signal.SIGKILL, job.output()
            assert re.search(rf"process rank {victim} with PID \d+ on node \S+ exited on signal 9", job.output())
            assert seconds < KILL_LIMIT_S, job.output()
        return seconds

    kills = attempts(new_run, times(100), disturb)
    note = f"ended, the rank named, nothing left running; within {KILL_LIMIT_S:.0f} s; seed {seed}"
    write_row("SIGKILL of a rank", len(kills), len(kills), f"{max(kills):.2f} s", note)


def test_a_rank_held_at_any_moment_is_named(new_run, undisturbed):
    generator, seed = moments_of_this_session()

    def disturb(run):
        moment, victim = generator.uniform(0, undisturbed.watched_s), generator.randrange(2)
        with Launch(run, "--restarts", 0) as job:
            rank = job.rank_processes()[victim]
            job.wait_for_output("preparing data")  # from here on the ranks watch one another
            if not wait_for_moment(job, moment) or not rank.alive():
                return None
            rank.send(signal.SIGSTOP)
            held = time.monotonic()
            if LAST_WORDS in job.output():  # they watch no longer: what is left is MPI's end
                return None
            named = rf"no progress on \S+ for {PATIENCE_S}\.0 s; stopped: rank {victim} \([^)]*\), whose process does not run"
            job.wait_for_output(named, timeout=60)
            seconds = time.monotonic() - held
            print(f"SIGSTOP of rank {victim} after {moment:.2f} s: named after {seconds:.2f} s")
            assert job.wait() == 71, job.output()
            assert processes_in(run.directory) == []
            assert seconds < HANG_LIMIT_S, job.output()
        return seconds

    hangs = attempts(new_run, times(20), disturb, comms=dict(timeout_seconds=PATIENCE_S))
    note = f"named within {HANG_LIMIT_S:.0f} s, comms.timeout_seconds being {PATIENCE_S}; seed {seed}"
    write_row("SIGSTOP of a rank that is watched", len(hangs), len(hangs), f"{max(hangs):.2f} s", note)

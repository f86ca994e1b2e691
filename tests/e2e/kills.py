"""Killing a run again and again at random moments."""

import os
import random
import time


def seed_of_this_session():
    """From the environment, to repeat a failure: RANKWISE_SEED=... pytest ..."""
    return int(os.environ.get("RANKWISE_SEED", random.SystemRandom().randrange(2**32)))


def measure(run, ranks):
    """Runs undisturbed to the end; returns the seconds up to the first step, and those of a step."""
    with run.start(ranks) as job:
        job.wait_for(run.steps, "the first step")
        start_seconds = time.monotonic() - job.began
        assert job.wait() == 0, job.output()
        total = time.monotonic() - job.began
    return start_seconds, (total - start_seconds) / len(run.steps())


def kill_repeatedly(run, ranks, kills, moments, steps, tell=print):
    """Starts the run `kills` times and ends its whole tree with SIGKILL, so that work is left after the last.

    moments() gives the seconds after each start; a run that is quicker than thought is killed once it has made its share
    of the `steps` there are.
    """
    for kill in range(1, kills + 1):
        share = steps * kill // (kills + 1)
        with run.start(ranks) as job:
            end = time.monotonic() + moments()
            while job.running() and time.monotonic() < end and run.last_step() < max(1, share):
                time.sleep(0.005)
            assert job.running(), f"ended by itself with code {job.popen.returncode}:\n{job.output()}"
            job.kill_tree()
            seconds = time.monotonic() - job.began
        tell(f"kill {kill} of {kills} after {seconds:.2f} s: at step {run.last_step()}, saved {run.checkpoints()}")


def random_moments(generator, start_seconds, step_seconds, steps_a_kill):
    """Uniform from the start of the process to twice the steps that one attempt is to win on average."""
    return lambda: generator.uniform(0, start_seconds + 2 * steps_a_kill * step_seconds)


def wait_for_moment(job, seconds):
    """Lets the job go on for so long; True if it still runs then."""
    end = time.monotonic() + seconds
    while job.running() and time.monotonic() < end:
        time.sleep(0.001)
    return job.running()

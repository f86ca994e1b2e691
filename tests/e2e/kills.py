"""Killing a run again and again at random moments."""

import os
import random
import subprocess
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


def kill_repeatedly(run, ranks, kills, moments, tell=print):
    """Starts the run `kills` times and ends its whole tree with SIGKILL; moments() gives the seconds after each start."""
    killed = 0
    while killed < kills:
        with run.start(ranks) as job:
            moment = moments()
            try:
                code = job.popen.wait(moment)
            except subprocess.TimeoutExpired:
                job.kill_tree()
                killed += 1
                tell(
                    f"kill {killed} of {kills} after {moment:.2f} s: at step {run.last_step()}, saved {run.checkpoints()}"
                )
            else:
                assert code == 0, f"a run that was only killed before ends with code {code}:\n{job.output()}"
                raise AssertionError(f"finished after {killed} of {kills} kills: the moments come too late")


def random_moments(generator, start_seconds, step_seconds, steps_a_kill):
    """Uniform from the start of the process to twice the steps that one attempt is to win on average."""
    return lambda: generator.uniform(0, start_seconds + 2 * steps_a_kill * step_seconds)

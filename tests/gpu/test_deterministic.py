"""train.deterministic on CUDA devices: true gives equal bits, false numbers that agree within the dtype."""

import pytest

BFLOAT16_LOSS = 1e-2  # relative: docs/design.md, tolerances
STEPS = dict(max_steps=24, save_steps=8)


def settings(deterministic, **train):
    return dict(model=dict(dtype="bfloat16"), train=STEPS | dict(deterministic=deterministic) | train)


def undisturbed_and_killed(new_run, ranks, deterministic):
    """Two finished runs, one of which was killed behind its third step and continued."""
    whole = new_run("whole", **settings(deterministic))
    killed = new_run("killed", **settings(deterministic, save_steps=1))
    whole.train(ranks)
    with killed.start(ranks) as job:
        job.wait_for(lambda: killed.last_step() >= 3, "step 3")
        job.kill_tree()
    killed.train(ranks)
    return whole, killed


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_same_run_twice_gives_the_same_bits(new_run, ranks):
    runs = [new_run(name, **settings(True)) for name in "ab"]
    for run in runs:
        run.train(ranks)
    assert runs[0].state_hashes() == runs[1].state_hashes()
    assert runs[0].losses() == runs[1].losses()


@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_and_continued_is_equal_in_every_bit(new_run, ranks):
    whole, killed = undisturbed_and_killed(new_run, ranks, deterministic=True)
    assert killed.state_hashes() == whole.state_hashes()
    assert killed.losses() == whole.losses()


@pytest.mark.parametrize("ranks", [1, 2])
def test_otherwise_the_losses_of_a_continued_run_agree(new_run, ranks):
    whole, killed = undisturbed_and_killed(new_run, ranks, deterministic=False)
    assert killed.losses() == pytest.approx(whole.losses(), rel=BFLOAT16_LOSS)

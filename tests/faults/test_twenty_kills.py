"""The demo's run, killed again and again at random moments and started again: equal in every bit to the undisturbed one.

Takes as long as some three undisturbed runs for each number of ranks. RANKWISE_KILLS and RANKWISE_STEPS make it shorter,
RANKWISE_SEED repeats the moments of an earlier session.
"""

import os
import random
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/e2e"))
sys.path.insert(0, str(ROOT / "tests/parity"))
from demo_inputs import demo_inputs  # noqa: E402
from kills import kill_repeatedly, measure, random_moments, seed_of_this_session  # noqa: E402
from runs import Run, merge  # noqa: E402

KILLS = int(os.environ.get("RANKWISE_KILLS", 20))
STEPS = int(os.environ.get("RANKWISE_STEPS", 20))


def recipe():
    """The demo's recipe with absolute paths, a page on any port and a checkpoint behind every step."""
    settings = yaml.safe_load((ROOT / "configs/recipes/smollm2_devil.yaml").read_text())
    for part in ("train", "eval"):
        for file in settings["data"][part]:
            file["path"] = str(ROOT / file["path"])
    return merge(
        settings,
        {
            "run": {"output_dir": "run"},
            "model": {"path": str(ROOT / settings["model"]["path"])},
            "data": {"cache_dir": str(ROOT / "runs/cache"), "eval": []},
            "train": {"max_steps": STEPS, "warmup_steps": min(5, STEPS), "save_steps": 1},
            "monitoring": {"listen": "127.0.0.1:0"},
        },
    )


@pytest.mark.parametrize("ranks", [1, 2])
def test_equal_in_every_bit_after_all_kills(tmp_path, capfd, ranks):
    def tell(text):
        with capfd.disabled():
            print(f"np {ranks}: {text}", flush=True)

    demo_inputs()
    seed = seed_of_this_session()
    tell(f"RANKWISE_SEED={seed}")
    whole = Run(tmp_path / "undisturbed", recipe())
    start_seconds, step_seconds = measure(whole, ranks)
    tell(f"undisturbed: first step after {start_seconds:.1f} s, {step_seconds:.1f} s a step")

    run = Run(tmp_path / "killed", recipe())
    moments = random_moments(random.Random(seed), start_seconds, step_seconds, STEPS / (KILLS + 1))
    kill_repeatedly(run, ranks, KILLS, moments, STEPS, tell)
    run.train(ranks, timeout=3600)
    assert run.state_hashes() == whole.state_hashes()
    assert run.losses() == whole.losses()
    tell(f"after {KILLS} kills: {run.state_hashes()}")

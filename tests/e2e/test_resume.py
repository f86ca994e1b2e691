"""A run that is stopped or killed, and started again, ends as if nothing had happened: equal in every bit."""

import json
import random
import re
import resource
import shutil
import signal

import pytest

from kills import kill_repeatedly, measure, random_moments, seed_of_this_session
from runs import CHATML, Run, merge, write_data

LONG = dict(max_steps=24, save_steps=8)
RANKS = [0, 2]  # without a launcher, and under mpirun


@pytest.fixture(scope="module")
def undisturbed(tiny, tmp_path_factory):
    """undisturbed(ranks): the finished run that the disturbed ones must equal."""
    finished = {}

    def get(ranks):
        if ranks not in finished:
            run = Run(tmp_path_factory.mktemp(f"undisturbed{ranks}"), tiny.settings(train=LONG))
            finished[ranks] = run, measure(run, ranks)
        return finished[ranks]

    return get


def stop(run, ranks, number, target):
    """Sends a signal behind the third step; returns the exit code."""
    with run.start(ranks) as job:
        receiver = job.main if target == "launcher" else job.ranks()[target]
        job.wait_for(lambda: run.last_step() >= 3, "step 3")
        receiver.send(number)
        return job.wait()


def assert_stopped_behind_a_step(run):
    assert run.checkpoints() == [run.last_step()], "saved is not the last finished step"
    assert 3 <= run.last_step() < LONG["max_steps"]
    assert not (run.output / "final").exists()


@pytest.mark.parametrize(
    "ranks, number, target",
    [
        (0, signal.SIGTERM, "launcher"),
        (0, signal.SIGUSR1, "launcher"),
        (2, signal.SIGUSR1, "launcher"),  # mpirun hands SIGUSR1 to all ranks at once and kills nobody
        (2, signal.SIGUSR1, 1),
        (2, signal.SIGTERM, 1),  # one rank alone: the others must stop at the same step
        (2, signal.SIGTERM, 0),
    ],
)
def test_stopped_on_request_and_continued(new_run, undisturbed, ranks, number, target):
    run = new_run(train=LONG)
    assert stop(run, ranks, number, target) == 75
    assert_stopped_behind_a_step(run)
    stopped_at = run.last_step()
    output = run.train(ranks)
    assert f"continuing behind step {stopped_at}" in output
    whole, _ = undisturbed(ranks)
    assert run.state_hashes() == whole.state_hashes()
    assert run.losses() == whole.losses()
    assert [entry["step"] for entry in run.steps()] == list(range(1, LONG["max_steps"] + 1)), (
        "lost or doubled log lines"
    )


def test_mpirun_ended_by_sigterm_leaves_a_run_that_continues(new_run, undisturbed):
    """mpirun itself then gives its ranks a second, and reports 1 whatever they return."""
    run = new_run(train=LONG)
    assert stop(run, 2, signal.SIGTERM, "launcher") != 0
    run.train(2)
    assert run.state_hashes() == undisturbed(2)[0].state_hashes()


@pytest.mark.parametrize("ranks", RANKS)
def test_killed_three_times(new_run, undisturbed, ranks):
    whole, (start_seconds, step_seconds) = undisturbed(ranks)
    seed = seed_of_this_session()
    print(f"RANKWISE_SEED={seed}")
    run = new_run(train=LONG | dict(save_steps=1))
    moments = random_moments(random.Random(seed), start_seconds, step_seconds, steps_a_kill=LONG["max_steps"] / 4)
    kill_repeatedly(run, ranks, 3, moments, LONG["max_steps"])
    run.train(ranks)
    assert run.state_hashes() == whole.state_hashes()
    assert run.losses() == whole.losses()


def test_a_disk_that_is_full_ends_the_run_and_leaves_the_last_checkpoint(new_run, undisturbed):
    """A limit on file sizes stands for the disk: the log still fits, the optimizer's moments do not."""
    run = new_run(train=LONG)
    with run.start(2) as job:
        ranks = job.ranks()
        job.wait_for(run.checkpoints, "the first checkpoint")
        resource.prlimit(ranks[0].pid, resource.RLIMIT_FSIZE, (200_000, 200_000))
        assert job.wait() == 73
    told = re.findall(r"write \S+/tmp\.\d+\.\d+/trainer_state/optimizer\.safetensors: File too large", job.output())
    assert len(told) == 1
    assert run.checkpoints() in ([8], [8, 16]) and not list(run.output.glob("tmp.*"))
    assert f"continuing behind step {run.checkpoints()[-1]} of 24" in run.train(2)
    assert run.state_hashes() == undisturbed(2)[0].state_hashes()


@pytest.mark.parametrize("before, after", [(2, 0), (0, 2), (2, 3)])
def test_another_number_of_ranks_sees_the_same_samples(new_run, undisturbed, before, after):
    run = new_run(train=LONG)
    assert stop(run, before, signal.SIGUSR1, "launcher") == 75
    run.train(after)
    whole, _ = undisturbed(before)
    for ours, theirs in zip(run.steps(), whole.steps(), strict=True):
        for count in ("step", "epoch", "input_tokens", "target_tokens", "learning_rate"):
            assert ours[count] == theirs[count]
    assert run.losses() == pytest.approx(whole.losses(), rel=1e-5)


@pytest.fixture(scope="module")
def checkpointed(tiny, tmp_path_factory):
    """A run with checkpoints of steps 2 and 4, of 6."""
    run = Run(tmp_path_factory.mktemp("checkpointed"), tiny.settings(train=dict(max_steps=6, save_steps=2)))
    run.train(0)
    shutil.rmtree(run.output / "final")
    shutil.rmtree(run.checkpoint(6))
    return run


def copy_of(run, directory, changes=None):
    """Another run that finds the same checkpoints."""
    copied = Run(directory, merge(run.settings, changes or {}))
    shutil.copytree(run.output, copied.output)
    return copied


def other_data(tiny, directory):
    path = write_data(directory / "train.jsonl", 48, seed=5)
    return {"train": [{"path": str(path), "format": "messages"}]}


def other_template(_, directory):
    path = directory / "chat.jinja"
    path.write_text(CHATML + "\n")
    return {"chat_template": str(path)}


def other_tokenizer(tiny, directory):
    model = shutil.copytree(tiny.model, directory / "model")
    settings = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": "<|endoftext|>"}))
    return {"path": str(model)}


def base_with_one_bit_changed(tiny, directory):
    model = shutil.copytree(tiny.model, directory / "model")
    weights = model / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[8 + int.from_bytes(content[:8], "little")] ^= 1  # the lowest bit of the first number
    weights.chmod(0o644)
    weights.write_bytes(content)
    return {"path": str(model)}


@pytest.mark.parametrize(
    "section, change, field",
    [
        ("lora", {"r": 4}, "lora_r"),
        ("lora", {"lora_alpha": 8}, "lora_alpha"),
        ("lora", {"lora_dropout": 0.0}, "lora_dropout"),
        ("lora", {"target_modules": ["q_proj"]}, "lora_modules"),
        ("run", {"seed": 8}, "seed"),
        ("model", {"dtype": "float64"}, "dtype"),
        ("model", base_with_one_bit_changed, "base_weights"),
        ("data", other_data, "data"),
        ("data", {"loss_on": "all"}, "data_settings"),
        ("data", other_template, "chat_template"),
        ("model", other_tokenizer, "tokenizer"),
        ("train", {"learning_rate": 1e-3}, "schedule"),
        ("train", {"global_batch_size": 2}, "global_batch_size"),
        ("train", {"adam_beta2": 0.95}, "optimizer"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_a_checkpoint_that_does_not_fit_is_refused(tiny, checkpointed, tmp_path, section, change, field):
    run = copy_of(checkpointed, tmp_path / "run", {section: change(tiny, tmp_path) if callable(change) else change})
    before = sorted(path for path in run.output.rglob("*"))
    config_before = (run.output / "config.yaml").read_text()
    output = run.train(0, expect=65)
    assert "does not fit" in output and f"\n  {field}: the checkpoint has " in output
    assert "start anew in another run.output_dir" in output
    assert sorted(path for path in run.output.rglob("*")) == before
    assert (run.output / "config.yaml").read_text() == config_before, "the refused run left its own configuration"


def test_a_longer_run_follows_its_own_schedule_from_there(new_run, checkpointed, tmp_path):
    run = copy_of(checkpointed, tmp_path / "run")
    before = run.losses()[:4]
    output = run.train(0, "--set", "train.max_steps=10")
    assert 'total_steps: the checkpoint has "6", this run has "10"' in output
    assert "the learning rate follows the schedule of this run" in output and "continuing behind step 4 of 10" in output
    whole = new_run(train=dict(max_steps=10, save_steps=10))
    whole.train(0)
    assert [entry["step"] for entry in run.steps()] == list(range(1, 11))
    assert run.losses()[:4] == before and run.losses() != whole.losses()
    for ours, theirs in zip(run.steps()[4:], whole.steps()[4:], strict=True):
        for name in ("epoch", "input_tokens", "target_tokens", "learning_rate"):
            assert ours[name] == theirs[name]


def test_a_run_of_epochs_is_made_longer_and_says_what_its_short_last_step_cost(new_run):
    epoch = dict(max_steps=None, num_train_epochs=1, save_steps=0, warmup_steps=0, global_batch_size=20)
    run = new_run(data=dict(packing=False), train=epoch)
    run.train(0)
    assert len(run.steps()) == 3  # 20, 20 and 8 of 48 rows
    output = run.train(0, "--set", "train.num_train_epochs=2")
    assert "continuing behind step 3 of 5" in output
    assert "the 12 rows that would have filled it are passed over" in output
    assert [entry["epoch"] for entry in run.steps()] == pytest.approx([20 / 48, 40 / 48, 1, 80 / 48, 2])


def test_a_run_shorter_than_its_checkpoint_is_refused(checkpointed, tmp_path):
    run = copy_of(checkpointed, tmp_path / "run")
    output = run.train(2, "--set", "train.max_steps=3", expect=65)
    assert output.count("is of step 4 and the run is to have 3; raise train.max_steps") == 1
    assert run.checkpoints() == [2, 4] and not (run.output / "final").exists()


def test_every_rank_leaves_with_the_code_of_a_refusal(checkpointed, tmp_path):
    run = copy_of(checkpointed, tmp_path / "run")
    output = run.train(2, "--set", "run.seed=8", expect=65)
    assert output.count("does not fit") == 1, "told once, not by each rank"


def test_required_without_a_checkpoint_is_refused(new_run):
    output = new_run(checkpoint=dict(resume="required")).train(0, expect=65)
    assert 'checkpoint.resume is "required"' in output and 'Use "auto" to start from step 0' in output


def test_required_continues(checkpointed, tmp_path):
    run = copy_of(checkpointed, tmp_path / "run")
    assert "continuing behind step 4" in run.train(0, "--set", "checkpoint.resume=required")


def test_never_refuses_a_directory_with_checkpoints(checkpointed, tmp_path):
    run = copy_of(checkpointed, tmp_path / "run")
    assert 'checkpoint.resume is "never"' in run.train(0, "--set", "checkpoint.resume=never", expect=65)
    assert run.checkpoints() == [2, 4]


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "name",
    ["adapter_model.safetensors", "trainer_state/optimizer.safetensors", "trainer_state/state.json", "MANIFEST.json"],
)
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(checkpointed, tmp_path, name):
    run = copy_of(checkpointed, tmp_path / "run")
    damage(run.checkpoint(4) / name)
    output = run.train(0)
    assert "not used: " in output and f"checkpoint-4/{name}" in output
    assert "continuing behind step 2" in output
    assert run.checkpoints() == [2, 4, 6], "the damaged checkpoint was not replaced"
    assert run.checkpoint(4).with_suffix(".damaged").is_dir(), "the damaged checkpoint was not kept for its owner"


def test_required_with_only_damaged_checkpoints_is_refused(checkpointed, tmp_path):
    run = copy_of(checkpointed, tmp_path / "run")
    for step in run.checkpoints():
        damage(run.checkpoint(step) / "MANIFEST.json")
    output = run.train(0, "--set", "checkpoint.resume=required", expect=65)
    assert "checkpoint-2/MANIFEST.json" in output and "checkpoint-4/MANIFEST.json" in output

"""What can be wrong with a start: a message with place and remedy, told once, and the documented code; nothing hangs."""

import json
import re
import shutil
import signal
import socket
import stat
import time

import pytest

from program import RANKWISE, run, wait_for_their_end
from runs import write_data


def change_config(old, new):
    """A fault in the text of the configuration."""

    def apply(run, _):
        run.config.write_text(run.config.read_text().replace(old, new))
        assert new in run.config.read_text()

    return apply


def own_model(change):
    """A fault in a copy of the model folder."""

    def apply(run, tiny):
        model = shutil.copytree(tiny.model, run.directory / "model")
        run.config.write_text(run.config.read_text().replace(str(tiny.model), "model"))
        change(model)

    return apply


def only_a_pickle(model):
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def cut_weights(model):
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def weights_of_more_layers(model):
    config = json.loads((model / "config.json").read_text())
    config["num_hidden_layers"] -= 1
    (model / "config.json").write_text(json.dumps(config))


def weights_of_another_width(model):
    config = json.loads((model / "config.json").read_text())
    config["intermediate_size"] *= 2
    (model / "config.json").write_text(json.dumps(config))


def no_tokenizer(model):
    (model / "tokenizer.json").unlink()


def unknown_architecture(model):
    config = json.loads((model / "config.json").read_text())
    config |= {"architectures": ["MambaForCausalLM"], "model_type": "mamba"}
    (model / "config.json").write_text(json.dumps(config))


def own_data(line):
    """A fault in the second line of a copy of the data."""

    def apply(run, tiny):
        lines = (tiny.directory / "train.jsonl").read_text().splitlines(keepends=True)
        lines[1] = line + "\n"
        (run.directory / "train.jsonl").write_text("".join(lines))
        run.config.write_text(run.config.read_text().replace(str(tiny.directory / "train.jsonl"), "train.jsonl"))

    return apply


def file_in_the_way(run, _):
    run.output.write_text("")


LONG_ANSWER = json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b " * 99}]})
FAULTS = {
    # What is wrong: (how to make it so, exit code, what the message must say)
    "unknown key": (
        change_config("max_steps:", "max_step:"),
        78,
        r"recipe\.yaml:\d+: train\.max_step: .*train\.max_steps",
    ),
    "wrong type": (change_config("max_steps: 12", "max_steps: soon"), 78, r"recipe\.yaml:\d+: train\.max_steps: "),
    "out of range": (
        change_config("lora_dropout: 0.1", "lora_dropout: 1.5"),
        78,
        r"recipe\.yaml:\d+: lora\.lora_dropout: ",
    ),
    "no such word": (change_config("base: shard", "base: shards"), 78, r"recipe\.yaml:\d+: parallel\.base: .*shard"),
    "no such module": (change_config("all-linear", "[q_porj]"), 78, r"lora\.target_modules.*q_porj.*nearest.*q_proj"),
    "no model folder": (
        change_config("path: /", "path: /absent/"),
        66,
        r"model\.path: /absent/\S+: no such directory; give",
    ),
    "weights as a pickle": (own_model(only_a_pickle), 66, r"pickle.*never read.*safetensors"),
    "truncated weights": (own_model(cut_weights), 65, r"model/model\.safetensors: "),
    "weights of more layers": (
        own_model(weights_of_more_layers),
        65,
        r"model: model\.layers\.\d+\.\S+ belongs to no layer of config\.json",
    ),
    "weights of another width": (
        own_model(weights_of_another_width),
        65,
        r"model: \S+gate_proj\.weight has shape \[.*config\.json asks for \[",
    ),
    "no tokenizer": (own_model(no_tokenizer), 66, r"model.*tokenizer\.json"),
    "unknown architecture": (own_model(unknown_architecture), 65, r"model/config\.json: .*\"mamba\".*supported: llama"),
    "line that is no JSON": (own_data('{"messages": ['), 65, r"train\.jsonl:2:"),
    "line of another format": (own_data('{"text": "ash"}'), 65, r"train\.jsonl:2: .*messages"),
    "line that is too long": (own_data(LONG_ANSWER), 65, r"train\.jsonl:2: .*data\.(max_length|over_length)"),
    "no data file": (change_config("train.jsonl", "absent.jsonl"), 66, r"absent\.jsonl"),
    "file in the way of the output": (file_in_the_way, 73, r"run.*director"),
    "output that cannot be made": (change_config("output_dir: run", "output_dir: /proc/run"), 73, r"/proc/run"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_refused_with_place_and_code_on_every_rank(tiny, new_run, fault):
    make, code, message = FAULTS[fault]
    run = new_run()
    make(run, tiny)
    output = run.train(2, expect=code)
    said = re.findall(message, output)
    assert len(said) == 1, f"told {len(said)} times:\n{output}"
    assert not list(run.output.glob("checkpoint-*")) and not (run.output / "config.yaml").exists()


def test_the_command_line(tmp_path):
    assert "trian" in run(tmp_path, 0, "trian", expect=64)
    assert "config" in run(tmp_path, 0, "train", expect=64)
    assert "absent.yaml" in run(tmp_path, 2, "train", "absent.yaml", expect=66)


def test_the_wrong_number_of_ranks(new_run):
    output = new_run(comms=dict(expected_world_size=3)).train(2, expect=78)
    assert output.count("comms.expected_world_size is 3 but 2 rank(s) run") == 1


def test_a_launcher_whose_ranks_do_not_find_each_other(new_run):
    output = new_run().train(0, expect=71, environment={"OMPI_COMM_WORLD_SIZE": "2"})
    assert "the launcher started 2 ranks but MPI sees 1" in output


@pytest.fixture
def taken_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_taken_port_that_is_required_ends_the_run(new_run, taken_port):
    output = new_run(monitoring=dict(listen=f"127.0.0.1:{taken_port}", required=True)).train(2, expect=78)
    assert output.count(f"127.0.0.1:{taken_port}") == 1
    assert "monitoring.listen" in output


def test_a_taken_port_is_otherwise_a_warning(new_run, taken_port):
    run = new_run(monitoring=dict(listen=f"127.0.0.1:{taken_port}"), train=dict(max_steps=2, save_steps=2))
    output = run.train(2)
    assert re.search(rf"warning .*127\.0\.0\.1:{taken_port}.*without metrics", output)
    assert run.last_step() == 2


def wrapper(directory, only_rank_1):
    """A script in the place of the program that does something else on rank 1."""
    script = directory / "wrapped"
    script.write_text(
        f'#!/bin/sh\nif [ "$OMPI_COMM_WORLD_RANK" = 1 ]; then {only_rank_1}; fi\nexec "{RANKWISE}" "$@"\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script


def test_a_rank_with_another_configuration_is_named(new_run):
    run = new_run()
    script = wrapper(run.directory, 'set -- "$@" --set train.learning_rate=0.001')
    output = run.train(3, expect=78, program=script)
    assert output.count("the configuration of rank(s) 1 differs from rank 0's") == 1


def test_a_rank_with_other_data_is_named(new_run):
    run = new_run()
    relative = [{"path": "train.jsonl", "format": "messages"}]
    run = new_run(data=dict(train=relative, cache_dir="cache"))
    write_data(run.directory / "train.jsonl", 48, seed=1)
    (run.directory / "other").mkdir()
    write_data(run.directory / "other/train.jsonl", 48, seed=2)
    output = run.train(2, expect=78, program=wrapper(run.directory, "cd other"))
    assert output.count("the training data of rank(s) 1 differs from rank 0's") == 1


def test_a_rank_with_another_base_is_named(tiny, new_run):
    run = new_run(model=dict(path="model"), parallel=dict(base="replicate"))
    shutil.copytree(tiny.model, run.directory / "model")
    shutil.copytree(tiny.model, run.directory / "other/model")
    weights = run.directory / "other/model/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    output = run.train(2, expect=78, program=wrapper(run.directory, "cd other"))
    assert output.count("the base model of rank(s) 1 differs from rank 0's") == 1


def test_a_failure_of_one_rank_names_it_and_ends_all(new_run):
    run = new_run(data=dict(train=[{"path": "train.jsonl", "format": "messages"}], cache_dir="cache"))
    write_data(run.directory / "train.jsonl", 48, seed=1)
    (run.directory / "other").mkdir()
    output = run.train(3, expect=66, program=wrapper(run.directory, "cd other"))
    assert len(re.findall(r"rank 1 on \S+: open train\.jsonl: No such file", output)) == 1


def test_a_second_job_in_the_same_directory_is_refused(new_run):
    run = new_run(train=dict(max_steps=5000, save_steps=0))
    with run.start(2) as first:
        first.wait_for(run.steps, "a step")
        config, log = (run.output / "config.yaml").read_text(), len(run.log())
        output = run.train(2, "--set", "run.name=second", expect=73)
        assert re.search(r"already in use by pid \d+ on \S+, run \w+", output)
        assert first.running() and (run.output / "config.yaml").read_text() == config
        assert len(run.log()) >= log


OUT_OF_MEMORY = {
    # What is allocated when memory ends: (what is benchmarked, what the message must advise)
    "base_shard": (["--shape", "8b", "--layers", "1"], "set parallel.base: shard"),
    "activations": (["--shape", "tiny", "--micro-batch", "1", "--sequence-length", 2**20], "data.max_length"),
}


@pytest.mark.parametrize("kind", OUT_OF_MEMORY)
def test_out_of_memory_says_who_what_and_what_to_change(tmp_path, kind):
    arguments, advice = OUT_OF_MEMORY[kind]
    limited = tmp_path / "limited"
    limited.write_text(f'#!/bin/sh\nulimit -v 1500000\nexec "{RANKWISE}" "$@"\n')
    limited.chmod(0o755)
    output = run(tmp_path, 2, "bench", "--device", "cpu", "--base", "replicate", *arguments, program=limited, expect=70)
    message = (
        rf"rank [01] of 2 on \S+: out of memory on the host while allocating {kind}: [\d.]+ MiB asked for, "
        rf"at most [\d.]+ MiB in use so far by this process's tensors, of [\d.]+ GiB; .*{re.escape(advice)}"
    )
    assert re.search(message, output), output


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_job(new_run, victim):
    run = new_run(train=dict(max_steps=5000, save_steps=0))
    with run.start(3) as job:
        ranks = job.ranks()
        job.wait_for(lambda: run.last_step() >= 2, "step 2")
        ranks[victim].send(signal.SIGKILL)
        assert job.wait(timeout=20) == 128 + signal.SIGKILL
        wait_for_their_end(ranks)


@pytest.mark.parametrize("victim", [0, 2])
@pytest.mark.parametrize("moment", [r"preparing data", r"step 2/"], ids=["loading", "training"])
def test_a_rank_that_hangs_is_named(new_run, victim, moment):
    timeout = 3
    run = new_run(train=dict(max_steps=5000, save_steps=0), comms=dict(timeout_seconds=timeout))
    with run.start(3) as job:
        ranks = job.ranks()
        job.wait_for_output(moment)
        ranks[victim].send(signal.SIGSTOP)
        stopped = time.monotonic()
        assert job.wait() == 71
        assert time.monotonic() - stopped < timeout + 3
        wait_for_their_end(ranks)
    message = (
        rf"no progress on \S+ for 3\.0 s; stopped: rank {victim} \([^)]*\), whose process does not run; kept waiting: "
    )
    assert re.search(message, job.output()), job.output()

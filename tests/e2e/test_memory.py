"""What a run holds and reads: the plan beside the program's own counters, and both beside what the kernel saw.

Two models: SmolLM2-135M-Instruct, and 1 GB of random weights in three files. Rows are full and all their tokens are
learned, which is what a plan reckons with. The libraries' own memory is that of the same program on as many ranks, with
the same tokenizer and data, over a model of next to no bytes.
"""

import re
import shutil
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import save_torch_state_dict

from frozen_base import FrozenBase
from program import BUILD, ROOT, read_proc
from program import run as run_program
from runs import Run

sys.path.insert(0, str(ROOT / "tests/parity"))
from demo_inputs import demo_inputs  # noqa: E402
from ranks import run_ranks  # noqa: E402
from tiny_models import write_request  # noqa: E402

SEED = 20261122
MEBIBYTE = 2**20
PREFETCH = 2
PLAN_TOLERANCE = 0.05  # of each kind of tensor memory, and of their total
RESIDENT_TOLERANCE = 0.10  # of a process beyond its plan and the libraries' own
ONE_GB = dict(
    architectures=["LlamaForCausalLM"],
    vocab_size=49152,
    hidden_size=1536,
    intermediate_size=4608,
    num_hidden_layers=13,
    num_attention_heads=24,
    num_key_value_heads=8,
    head_dim=64,
    tie_word_embeddings=False,
)
NEXT_TO_NOTHING = dict(
    hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, head_dim=16
)


def random_bfloat16(shape, generator):
    """Any sign and mantissa, magnitudes of 2^-6 to 2^-5: as fast as random bits can be had."""
    bits = generator.integers(2**16, size=shape, dtype=np.uint16)
    bits &= 0x807F
    bits |= 0x3C80
    return torch.from_numpy(bits).view(torch.bfloat16)


def write_model(directory, tokenizer_of, **shape):
    """A Llama of random weights in files of at most 400 MB, with the tokenizer of another folder."""
    config = transformers.LlamaConfig(**shape, dtype="bfloat16")
    with torch.device("meta"):
        parameters = dict(transformers.LlamaForCausalLM(config).named_parameters())
    generator = np.random.default_rng(SEED)
    directory.mkdir()
    config.save_pretrained(directory)
    weights = {name: random_bfloat16(tuple(p.shape), generator) for name, p in parameters.items()}
    save_torch_state_dict(weights, directory, max_shard_size="400MB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer_of / name, directory)
    return directory


def settings(model, data, ranks, policy, max_steps):
    return {
        "run": {"name": "memory", "output_dir": "run"},
        "model": {"path": str(model), "dtype": "float32"},
        "lora": {"r": 8, "target_modules": "all-linear"},
        "data": {
            "train": [{"path": str(data), "format": "text"}],
            "max_length": 64,
            "over_length": "truncate_right",
            "cache_dir": str(data.parent / "cache"),
        },
        "train": {
            "max_steps": max_steps,
            "global_batch_size": ranks,
            "per_device_train_batch_size": 1,
            "logging_steps": 1,
            "save_steps": 0,
        },
        "parallel": {"base": "shard", "prefetch": PREFETCH, "resident_gib": 0, "activations": policy},
        "monitoring": {"listen": "127.0.0.1:0"},
    }


@dataclass
class Processes:
    """The ranks of a run that has made two steps and goes on. Lists have an entry a rank."""

    page: dict  # the metrics of rank 0
    peak_resident: list  # bytes: VmHWM
    read: list  # bytes, of files and pipes of any kind

    @classmethod
    def look(cls, run, job):
        job.wait_for(lambda: run.last_step() >= 2, "two steps")
        page, pids = job.metrics(), [process.pid for process in job.ranks()]
        peaks = [re.search(rb"VmHWM:\s+(\d+) kB", read_proc(pid, "status")) for pid in pids]
        reads = [re.search(rb"rchar: (\d+)", read_proc(pid, "io")) for pid in pids]
        return cls(page, [1024 * int(peak[1]) for peak in peaks], [int(read[1]) for read in reads])

    def memory(self, kind, value="memory_bytes"):
        return int(self.page[f'rankwise_{value}{{kind="{kind}",rank="0"}}'])


@dataclass
class Watched:
    """A whole run: bytes by kind of `rankwise plan`, and as planned and measured by what the run says at its end."""

    plan: dict
    compared: dict
    processes: Processes
    directory: Path


def figures(text, *columns):
    """{kind: [bytes, ...]} of a table in MiB."""
    pattern = r"^  (\w+)" + "".join(rf"\s+([\d.]+) MiB{column}" for column in columns)
    rows = re.findall(pattern, text, re.MULTILINE)
    return {kind: [float(value) * MEBIBYTE for value in values] for kind, *values in rows}


class Laboratory:
    """The models, and runs over them: each is made once and looked at by several tests."""

    def __init__(self, directory):
        self.directory = directory
        self.data = directory / "data.jsonl"
        self.data.write_text('{"text": "%s"}\n' % ("What is a word worth? " * 20) * 16)  # longer than a row
        smollm2, _ = demo_inputs()
        one_gb = write_model(directory / "1gb", smollm2, **ONE_GB)
        self.models = {"smollm2": smollm2, "1gb": one_gb}
        self.idle_model = write_model(directory / "idle", smollm2, **ONE_GB | NEXT_TO_NOTHING)
        self.watch, self.idle = cache(self.watch), cache(self.idle)

    def run(self, name, model, ranks, policy, max_steps):
        return Run(self.directory / "runs" / name, settings(model, self.data, ranks, policy, max_steps))

    def idle(self, ranks):
        run = self.run(f"idle-{ranks}", self.idle_model, ranks, "save", max_steps=100_000)
        with run.start(ranks) as job:
            return Processes.look(run, job)

    def watch(self, name, ranks, policy):
        run = self.run(f"{name}-{ranks}-{policy}", self.models[name], ranks, policy, max_steps=3)
        plan = run_program(run.directory, 0, "plan", run.config, "--ranks", ranks)
        with run.start(ranks) as job:
            processes = Processes.look(run, job)
            assert job.wait() == 0, job.output()
            compared = figures(job.output(), " planned", " measured")
        return Watched({kind: bytes for kind, [bytes] in figures(plan, "").items()}, compared, processes, run.output)


@pytest.fixture(scope="session")
def laboratory(tmp_path_factory):
    print(f"seed {SEED}")
    return Laboratory(tmp_path_factory.mktemp("memory"))


every_layout = pytest.mark.parametrize(
    "name, ranks, policy",
    [
        (name, ranks, policy)
        for name, worlds in [("1gb", (1, 2, 4)), ("smollm2", (1, 2))]
        for ranks in worlds
        for policy in ("save", "recompute_block")
    ],
)
every_split = pytest.mark.parametrize("ranks", [1, 2, 4])


@every_layout
def test_every_kind_of_memory_is_as_planned(laboratory, name, ranks, policy):
    seen = laboratory.watch(name, ranks, policy)
    assert set(seen.compared) == set(seen.plan) and "total" in seen.plan
    for kind, (planned, measured) in seen.compared.items():
        print(f"{kind:<12} {planned / 1e6:9.1f} MB planned {measured / 1e6:9.1f} MB measured")
        assert planned == seen.plan[kind], kind
        assert measured == pytest.approx(planned, rel=PLAN_TOLERANCE), kind


@every_layout
def test_a_process_is_its_plan_and_the_libraries(laboratory, name, ranks, policy):
    seen, idle = laboratory.watch(name, ranks, policy), laboratory.idle(ranks)
    for peak, idle_peak in zip(seen.processes.peak_resident, idle.peak_resident):
        libraries = idle_peak - idle.memory("allocator", "memory_peak_bytes")
        expected = seen.plan["total"] + libraries
        print(f"VmHWM {peak / 1e6:.0f} MB, plan {seen.plan['total'] / 1e6:.0f} MB, libraries {libraries / 1e6:.0f} MB")
        assert peak < (1 + RESIDENT_TOLERANCE) * expected


def bytes_to_read(model, ranks):
    """By all ranks together: matrices once, norms once a rank."""
    base = FrozenBase.read(model)
    return 2 * (base.stored + (ranks - 1) * base.replicated)


@every_split
def test_each_sharded_byte_is_read_once(laboratory, tmp_path, ranks):
    seen, model = laboratory.watch("1gb", ranks, "save"), laboratory.models["1gb"]
    adapter = seen.directory / "final"
    request = write_request(
        tmp_path / "request.json", model, adapter, [], shard_group=ranks, steps=0, logits=False, dtype="bfloat16"
    )
    output = run_ranks(ranks, BUILD / "tests/support/parity_tool", request, tmp_path / "out.safetensors")
    counted = [int(count) for count in re.findall(r"^rank \d+ read (\d+)", output, re.MULTILINE)]
    assert len(counted) == ranks
    assert sum(counted) == bytes_to_read(model, ranks)
    # And as the kernel counts it, in the training run: what the idle program reads is not of the model.
    idle = laboratory.idle(ranks)
    read = sum(seen.processes.read) - sum(idle.read) + bytes_to_read(laboratory.idle_model, ranks)
    print(f"{sum(seen.processes.read)} bytes read, of which {read} of the model; {sum(counted)} counted")
    assert read == pytest.approx(bytes_to_read(model, ranks), rel=0.001)


@every_split
def test_a_rank_holds_and_receives_the_figures_of_the_design(laboratory, ranks):
    processes = laboratory.watch("1gb", ranks, "save").processes
    base = FrozenBase.read(laboratory.models["1gb"])
    width = 2 if base.shard(ranks) * 4 > processes.memory("base_shard") else 4  # bytes a stored element
    norms = processes.memory("base_shard") - width * base.shard(ranks)
    assert norms in (2 * base.replicated, 4 * base.replicated)
    assert processes.memory("gathered") == width * base.buffers(ranks, PREFETCH)
    steps = int(processes.page["rankwise_train_steps_total"])
    received = base.received_once(ranks, PREFETCH) + steps * base.received_a_micro_batch(ranks, PREFETCH)
    series = 'rankwise_comm_bytes_total{op="all_gather",rank="0",transport="mpi"}'
    assert processes.page.get(series, 0) == width * received

"""A tiny random model with a tokenizer and data of its own, runs over it, and what they leave behind."""

import copy
import hashlib
import json
import random
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from program import DEVICE, ROOT, Job, run

sys.path.insert(0, str(ROOT / "tests/parity"))
from tiny_models import COMMON, make_model  # noqa: E402

SEED = 20261122
WORDS = (
    "ash birch cedar dogwood elm fir ginkgo hazel ivy juniper kapok larch maple nutmeg oak pine quince rowan".split()
)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_tokenizer(directory):
    """SmolLM2's pipeline over bytes, with as many merges as the tiny model has rows for."""
    specials = [
        AddedToken(text, special=True, normalized=False) for text in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    ]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=COMMON["vocab_size"], special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "chat_template": CHATML}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))


def make_record(generator):
    question = " ".join(generator.choices(WORDS, k=generator.randint(1, 5)))
    answer = " ".join(sorted(question.split()))
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def write_data(path, records, seed):
    generator = random.Random(seed)
    path.write_text("".join(json.dumps(make_record(generator)) + "\n" for _ in range(records)))
    return path


@dataclass
class Tiny:
    """A model folder, data files and a cache, shared by all runs of a session; only read."""

    directory: Path

    @classmethod
    def make(cls, directory):
        make_model(directory / "model", "llama", SEED)
        write_tokenizer(directory / "model")
        write_data(directory / "train.jsonl", 48, SEED)
        write_data(directory / "valid.jsonl", 8, SEED + 1)
        return cls(directory)

    @property
    def model(self):
        return self.directory / "model"

    def settings(self, **changes):
        """A complete configuration. `changes` are sections: train=dict(max_steps=3)."""
        defaults = {
            "run": {"name": "tiny", "output_dir": "run", "seed": 7},
            "model": {"path": str(self.model), "dtype": "float32"},
            "lora": {"r": 8, "lora_alpha": 16, "lora_dropout": 0.1, "target_modules": "all-linear"},
            "data": {
                "train": [{"path": str(self.directory / "train.jsonl"), "format": "messages"}],
                "max_length": 64,
                "packing": True,
                "cache_dir": str(self.directory / "cache"),
            },
            "train": {
                "max_steps": 12,
                "global_batch_size": 4,
                "per_device_train_batch_size": 1,
                "learning_rate": 5e-3,
                "warmup_steps": 2,
                "logging_steps": 1,
                "save_steps": 4,
                "deterministic": True,
            },
            "parallel": {"base": "shard"} | ({"device": DEVICE} if DEVICE else {}),
            "monitoring": {"listen": "127.0.0.1:0"},
        }
        return merge(defaults, changes)


def merge(settings, changes):
    merged = copy.deepcopy(settings)
    for section, values in changes.items():
        merged.setdefault(section, {}).update(values)
    return merged


class Run:
    """A configuration in a directory of its own, which is where the program works."""

    def __init__(self, directory, settings):
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.settings = copy.deepcopy(settings)
        self.output = directory / settings["run"]["output_dir"]
        self.config = directory / "recipe.yaml"
        self.config.write_text(yaml.safe_dump(settings, sort_keys=False))

    def start(self, ranks, *overrides, **options):
        return Job(self.directory, ranks, "train", self.config, *overrides, **options)

    def train(self, ranks, *overrides, expect=0, **options):
        return run(self.directory, ranks, "train", self.config, *overrides, expect=expect, **options)

    def log(self):
        """The whole lines of train_log.jsonl: a line is written at once, but a reader may come in between."""
        try:
            text = (self.output / "train_log.jsonl").read_text()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def steps(self):
        return [entry for entry in self.log() if "loss" in entry]

    def evaluations(self):
        return [entry for entry in self.log() if "eval_loss" in entry]

    def losses(self):
        return [entry["loss"] for entry in self.steps()]

    def last_step(self):
        return max((entry["step"] for entry in self.steps()), default=0)

    def checkpoints(self):
        """Steps of the checkpoints, ascending."""
        names = [re.fullmatch(r"checkpoint-(\d+)", path.name) for path in self.output.glob("checkpoint-*")]
        return sorted(int(name[1]) for name in names if name)

    def checkpoint(self, step):
        return self.output / f"checkpoint-{step}"

    def state_hashes(self):
        """What a run ends with: the final adapter, and adapter and moments of the last checkpoint."""
        last = self.checkpoint(self.checkpoints()[-1])
        files = [
            self.output / "final/adapter_model.safetensors",
            last / "adapter_model.safetensors",
            last / "trainer_state/optimizer.safetensors",
        ]
        return {str(path.relative_to(self.output)): sha256(path) for path in files}


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()

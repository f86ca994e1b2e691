"""The same modules, ranks and scalings as PEFT, for random configurations of two model families."""

import json
import random
import warnings

import pytest
from peft import LoraConfig, get_peft_model

from lora_tool import adapted_by_peft, ask, config_text, fresh_model, modules

LEAVES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ENDINGS = [*LEAVES, "self_attn.q_proj", "mlp.up_proj", "1.self_attn.v_proj", "layers.2.mlp.down_proj", "lm_head"]
REGEXES = [
    r".*_proj",
    r".*\.(q|v)_proj",
    r"model\.layers\.(0|11|2)\..*(up|down)_proj",
    r"model.layers.1\d?.mlp.gate_proj",
    r".*layers\.(?!0\.)\d+\.self_attn\.o_proj",
    r".*(?<!k)_proj",
    r"(?i).*\.Q_PROJ|lm_head",
    r"(?P<root>model)\.layers\.\d+\..*[^kv]_proj",
    r".*\.(\d)\.mlp.*_proj",
    r"(.*\.)?[[:q_]+proj",
    r".*\.v_pro++j",
    r"q_proj",
    r"model\.layers\.\d{1,}\.self_attn\.[q-v]_proj\Z",
]
KEYS = [
    *ENDINGS,
    r".*\.0\..*",
    r"layers\.1\d\..*",
    r"(q|k)_proj",
    r"model.layers.1.self_attn.q_proj",
    r"q_proj|up_proj",
    r".*",
]


def pick(rng, choices, most):
    return rng.sample(choices, rng.randint(1, min(most, len(choices))))


def random_config(rng, family):
    names = [row["name"] for row in modules(family) if row["kind"] != "embedding"]
    kind = rng.choice(["list", "list", "list", "regex", "all-linear"])
    fields = {"r": rng.randint(1, 5), "lora_alpha": rng.choice([1, 3, 8, 16]), "use_rslora": rng.random() < 0.3}
    if kind == "list":
        # PEFT shortens lists of 20 and more entries before it looks at the layers (see target_matching.h).
        fields["target_modules"] = pick(rng, ENDINGS, 4) + (pick(rng, names, 3) if rng.random() < 0.4 else [])
        if rng.random() < 0.4:
            fields["layers_to_transform"] = rng.choice([1, [0], [0, 2], [1, 10, 11], []])
            if rng.random() < 0.5:
                patterns = ["layers", ["layers"], ["blocks", "layers"], "blocks", "(h|layers)", ""]
                fields["layers_pattern"] = rng.choice(patterns)
    else:
        fields["target_modules"] = rng.choice(REGEXES) if kind == "regex" else rng.choice(["all-linear", "All-Linear"])
    if rng.random() < 0.4:
        exclude = [pick(rng, ENDINGS, 2), pick(rng, names, 2), r".*\.1\..*", r".*mlp.*", []]
        fields["exclude_modules"] = rng.choice(exclude)
    for pattern in ("rank_pattern", "alpha_pattern"):
        if rng.random() < 0.5:
            fields[pattern] = {key: rng.randint(1, 9) for key in pick(rng, KEYS, 3)}
    return fields


def peft_result(fields, family):
    """What PEFT adapts; {} where it finds nothing."""
    config = LoraConfig(**fields, task_type="CAUSAL_LM")
    text = config_text(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return adapted_by_peft(get_peft_model(fresh_model(family), config)), text
        except ValueError as error:
            nothing = ("not found in the base model", "No modules were targeted", "All modules were excluded")
            assert any(words in str(error) for words in nothing), error
            return {}, text


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("seed", range(25))
def test_random_configurations_match_as_in_peft(family, seed):
    fields = random_config(random.Random(f"{family} {seed}"), family)
    expected, text = peft_result(fields, family)
    answer = ask("match", family, config=text)
    assert answer.get("modules") == expected, (seed, fields, answer.get("error"))


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("regex", REGEXES)
def test_regexes_match_as_in_peft(family, regex):
    expected, text = peft_result({"target_modules": regex}, family)
    assert ask("match", family, config=text)["modules"] == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": "all-linear", "layers_to_transform": [1]},
        {"target_modules": ".*q_proj", "layers_to_transform": [1], "layers_pattern": "layers"},
        {"target_modules": ["q_proj"], "layers_pattern": "layers"},
    ],
)
def test_what_peft_refuses_is_refused(fields):
    with pytest.raises(ValueError):
        LoraConfig(**fields)
    text = json.dumps({"peft_type": "LORA", **fields})
    assert ask("resolve", "llama", config=text)["code"] == 78


def test_an_embedding_that_peft_would_train_is_refused():
    expected, text = peft_result({"target_modules": ["q_proj", "embed_tokens"]}, "llama")
    assert "model.embed_tokens" in expected
    answer = ask("match", "llama", config=text)
    assert "model.embed_tokens" in answer["error"] and answer["code"] == 78


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_trainable_report_reads_as_in_peft(family, capsys):
    config = LoraConfig(r=3, target_modules="all-linear", rank_pattern={"q_proj": 5}, task_type="CAUSAL_LM")
    text = config_text(config)
    model = get_peft_model(fresh_model(family), config)
    model.print_trainable_parameters()
    answer = ask("resolve", family, config=text, base_parameters=fresh_model(family).num_parameters())
    assert answer["report"] == capsys.readouterr().out.strip()

"""What a run leaves is what PEFT loads: no key too many or too few, and the same numbers come out."""

import signal
import subprocess
import sys
import warnings

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file

from program import BUILD, ENVIRONMENT, ROOT
from runs import Run

sys.path.insert(0, str(ROOT / "tests/parity"))
sys.path.insert(0, str(ROOT / "tools"))
from check_peft import check as check_loads_strictly  # noqa: E402
from demo_inputs import demo_inputs  # noqa: E402
from tiny_models import make_samples, write_request  # noqa: E402

LOGITS_TOLERANCE = 1e-5  # relative norm, float32


def our_logits(directory, model, adapter, sample):
    request = write_request(directory / "request.json", model, adapter, [sample], dtype="float32")
    out = directory / "out.safetensors"
    out.unlink(missing_ok=True)  # never overwritten
    subprocess.run([BUILD / "tests/support/parity_tool", request, out], env=ENVIRONMENT, check=True, timeout=300)
    return load_file(out)["logits"]


def peft_logits(adapter, sample):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # PEFT only warns of a missing key
        model = AutoPeftModelForCausalLM.from_pretrained(adapter, dtype=torch.float32).eval()
    with torch.no_grad():
        with_adapter = model(torch.tensor([sample["ids"]])).logits[0].double()
        with model.disable_adapter():
            base = model(torch.tensor([sample["ids"]])).logits[0].double()
    return with_adapter, base


def assert_same_in_peft(directory, model, adapter, vocabulary):
    check_loads_strictly(model, adapter)
    sample = make_samples(1, vocabulary, seed=3)[0]
    ours = our_logits(directory, model, adapter, sample)
    theirs, base = peft_logits(adapter, sample)
    assert (ours - theirs).norm() / theirs.norm() < LOGITS_TOLERANCE
    assert (theirs - base).norm() / base.norm() > 100 * LOGITS_TOLERANCE, "the adapter changes nothing"


def test_adapter_and_checkpoint_load_in_peft(tiny, new_run, tmp_path):
    run = new_run(lora=dict(r=4, use_rslora=True, target_modules=["q_proj", "v_proj", "down_proj"]))
    run.train(2)
    for adapter in (run.output / "final", run.checkpoint(8)):
        assert_same_in_peft(tmp_path, tiny.model, adapter, vocabulary=320)


def test_real_model_has_the_known_loss_and_its_adapter_loads_in_peft(tmp_path):
    """4.34443: transformers in float32 over the 100 rows of valid.jsonl, cut at 256 tokens, a mean over answer tokens."""
    model, data = demo_inputs()
    files = {
        part: [{"path": str(data / f"{name}.jsonl"), "format": "messages"}]
        for part, name in [("train", "train"), ("eval", "valid")]
    }
    run = Run(
        tmp_path,
        {
            "run": {"output_dir": "run"},
            "model": {"path": str(model), "dtype": "float32"},
            "data": files | {"max_length": 256, "over_length": "truncate_right", "cache_dir": "cache"},
            # Stopped behind the first step, there is one evaluation only; the learning rate must show within that step.
            "train": {"max_steps": 2, "global_batch_size": 1, "per_device_train_batch_size": 1, "learning_rate": 0.05},
            "monitoring": {"listen": None},
        },
    )
    with run.start(2) as job:
        job.wait_for(run.evaluations, "the evaluation of the base")
        job.main.send(signal.SIGUSR1)
        assert job.wait() == 75
    evaluation = run.evaluations()[0]
    assert evaluation["step"] == 0
    assert evaluation["eval_loss"] == pytest.approx(4.34443, abs=1e-4)
    assert_same_in_peft(tmp_path, model, run.checkpoint(1), vocabulary=49152)

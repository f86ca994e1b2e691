#!/usr/bin/env python3
"""Load an adapter with PEFT and compare what PEFT holds with what the file holds, tensor by tensor.

PEFT itself only warns of a tensor that is missing, and passes over one that is unexpected.
"""

import argparse
import os
import sys
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")  # PEFT's warnings are this tool's errors

import torch  # noqa: E402
from peft import PeftModel, get_peft_model_state_dict  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402
from transformers.utils import logging  # noqa: E402

from support import BadData, NoInput, run  # noqa: E402


def check(model, adapter):
    file = adapter / "adapter_model.safetensors"
    if not file.is_file():
        raise NoInput(f"{file}: no such file")
    stored = load_file(file)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    loaded = get_peft_model_state_dict(PeftModel.from_pretrained(base, adapter))
    if missing := sorted(loaded.keys() - stored.keys()):
        raise BadData(f"{file}: {len(missing)} tensors are missing, among them {missing[0]}")
    if unexpected := sorted(stored.keys() - loaded.keys()):
        raise BadData(f"{file}: {len(unexpected)} tensors are unexpected, among them {unexpected[0]}")
    if different := [key for key in stored if not torch.equal(stored[key], loaded[key])]:
        raise BadData(f"{file}: PEFT holds other numbers for {len(different)} tensors, among them {different[0]}")
    print(f"loads in PEFT         yes: {len(stored)} tensors, none missing, none unexpected")


def main(argv=None):
    options = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: tools/check_peft.py models/SmolLM2-135M-Instruct runs/smollm2-devil/final",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("model", type=Path, help="the base model's folder")
    options.add_argument("adapter", type=Path, help="the adapter's folder")
    args = options.parse_args(argv)
    logging.disable_progress_bar()
    return run("check_peft", lambda: check(args.model, args.adapter))


if __name__ == "__main__":
    sys.exit(main())

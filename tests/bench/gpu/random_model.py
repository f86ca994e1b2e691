"""Writes a Llama of a named shape with random bfloat16 weights as Hugging Face does, in files of some GiB each.

What `rankwise bench --model DIRECTORY` reads, to time how fast a base is loaded: random_model.py 8b DIRECTORY
"""

import argparse
from pathlib import Path

import torch
from peft_step import SHAPES, llama_config
from transformers import LlamaForCausalLM


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--layers", type=int, help="fewer than the shape has")
    options = parser.parse_args()
    torch.manual_seed(17)
    config = llama_config(options.shape, options.layers, dtype="bfloat16")
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        torch.set_default_dtype(torch.bfloat16)
        model = LlamaForCausalLM(config)
    model.save_pretrained(options.directory, max_shard_size="4GB")


if __name__ == "__main__":
    main()

"""The peer of the CPU benchmark: LoRA training of a chat model by PEFT and transformers, as a raw loop without a trainer.

Two ways to feed the same rows: `padded`, one sample a row and the usual recipe, and `packed`, samples beside each other
in rows of max_length with restarted positions (transformers cuts the attention between them), where the head runs on
the answers' tokens alone. Prints one line of JSON.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="JSONL with messages")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the base, and of the adapter if packed")
    parser.add_argument("--feed", choices=["padded", "packed"], default="packed")
    parser.add_argument("--rows", type=int, default=2, help="a step; 8 are usual when padded")
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--warm-up", type=int, default=2, help="first steps, not counted")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def encode(tokenizer, messages, max_length):
    """Ids and labels, the prompt masked by its length."""
    prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, tokenize=False)
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    masked = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    return ids[:max_length], ([-100] * masked + ids[masked:])[:max_length]


def pack(samples, max_length):
    """Bins of samples in the order of the file."""
    bins = [[]]
    for sample in samples:
        if sum(len(ids) for ids, _ in bins[-1]) + len(sample[0]) > max_length:
            bins.append([])
        bins[-1].append(sample)
    return bins[:-1]


def packed_batch(bins, max_length):
    shape = (len(bins), max_length)
    batch = {name: torch.zeros(shape, dtype=torch.long) for name in ("input_ids", "position_ids")}
    batch["labels"] = torch.full(shape, -100)
    for row, samples in enumerate(bins):
        begin = 0
        for ids, labels in samples:
            place = slice(begin, begin + len(ids))
            batch["input_ids"][row, place] = torch.tensor(ids)
            batch["labels"][row, place] = torch.tensor([-100] + labels[1:])  # no sample predicts the next one's start
            batch["position_ids"][row, place] = torch.arange(len(ids))
            begin += len(ids)
        batch["position_ids"][row, begin:] = torch.arange(max_length - begin)
    return batch


def padded_batch(samples):
    shape = (len(samples), max(len(ids) for ids, _ in samples))
    batch = {name: torch.zeros(shape, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    batch["labels"] = torch.full(shape, -100)
    for row, (ids, labels) in enumerate(samples):
        batch["input_ids"][row, : len(ids)] = torch.tensor(ids)
        batch["labels"][row, : len(ids)] = torch.tensor(labels)
        batch["attention_mask"][row, : len(ids)] = 1
    return batch


def loss_on_answers_alone(model, batch):
    """As model(**batch).loss, with the head where a label is."""
    causal = model.base_model.model
    labels = batch.pop("labels")[:, 1:]
    hidden = causal.model(**batch, use_cache=False)[0][:, :-1][labels != -100]
    return torch.nn.functional.cross_entropy(causal.lm_head(hidden).float(), labels[labels != -100])


def main():
    options = parse()
    torch.set_num_threads(options.threads)
    packed = options.feed == "packed"
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=DTYPES[options.dtype])
    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, lora, autocast_adapter_dtype=not packed)
    model.train()
    rows = [json.loads(line)["messages"] for line in options.data.read_text().splitlines()]
    samples = [encode(tokenizer, messages, options.max_length) for messages in rows]
    feed = pack(samples, options.max_length) if packed else samples
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)

    seconds = tokens = answers = 0
    for step in range(options.steps):
        chosen = feed[step * options.rows : (step + 1) * options.rows]
        batch = packed_batch(chosen, options.max_length) if packed else padded_batch(chosen)
        counted = step >= options.warm_up
        answers += counted * int((batch["labels"] != -100).sum())
        tokens += counted * sum(len(ids) for row in chosen for ids, _ in (row if packed else [row]))
        start = time.perf_counter()
        loss = loss_on_answers_alone(model, batch) if packed else model(**batch, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds += counted * (time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        json.dumps({"tokens_per_second": tokens / seconds, "answers_per_second": answers / seconds, "peak_bytes": peak})
    )


if __name__ == "__main__":
    main()

"""Tokenizers of the families that people tune: SmolLM2's own, and small ones trained here with the same pipelines as the
published files (normalizer, split pattern, model options, post-processor, decoder), on text that every machine has.
"""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

REPO = Path(__file__).resolve().parents[2]
VOCAB_SIZE = 3000

LLAMA3_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
DEEPSEEK_SPLITS = [
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^".replace(r"\"", '"')
    + "\r\n"
    + r"\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+["
    + "\r\n"
    + r"]*|\s*["
    + "\r\n"
    + r"]+|\s+(?!\S)|\s+",
]

FOREIGN = """Die Straße führt über die Brücke nach Köln. Où est la bibliothèque ? ¿Dónde está el niño? Привет, как дела?
Η Αθήνα είναι η πρωτεύουσα. 東京は日本の首都です。 今天天气很好，我们去公园吧。 안녕하세요, 만나서 반갑습니다. مرحبا بالعالم שלום עולם
नमस्ते दुनिया สวัสดีชาวโลก Xin chào thế giới. Çok güzel bir gün. Ðæt wæs gōd cyning. 😀 🎉 👍 naïve café ﬁne ½ ² Ⅷ
"""


def corpus():
    """About a megabyte of English and code: Python's own documentation and a few of its modules."""
    library = Path(sysconfig.get_path("stdlib"))
    files = ["pydoc_data/topics.py", "argparse.py", "typing.py", "datetime.py", "json/decoder.py"]
    lines = [line for name in files for line in (library / name).read_text(encoding="utf-8").splitlines()]
    return [line.replace("\\n", "\n") for line in lines] + FOREIGN.splitlines() * 20


def special(*contents):
    return [AddedToken(content, special=True, normalized=False) for content in contents]


def split(*patterns):
    parts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    return pre_tokenizers.Sequence(parts + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def train_bytes(tokenizer, specials):
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_special_tokens(specials)  # behind the vocabulary, as in the published files
    return tokenizer


def gpt2():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    train_bytes(tokenizer, special("<|endoftext|>"))
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer, {name: "<|endoftext|>" for name in ("bos_token", "eos_token", "unk_token")}


def llama3():
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = split(LLAMA3_SPLIT)
    reserved = [f"<|reserved_special_token_{i}|>" for i in range(4)]
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    train_bytes(tokenizer, special(*names, *reserved))
    bos = ("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))
    template = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1", special_tokens=[bos]
    )
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return tokenizer, {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}


def qwen2():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = split(QWEN2_SPLIT)
    train_bytes(tokenizer, special("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in ("<tool_call>", "<think>", "</think>")])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer, {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}


def deepseek():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = split(*DEEPSEEK_SPLITS)
    train_bytes(tokenizer, special("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"))
    tokenizer.add_tokens([AddedToken("<｜User｜>", normalized=False), AddedToken("<｜Assistant｜>", normalized=False)])
    bos = "<｜begin▁of▁sentence｜>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[bos, "$A"], pair=[bos, "$A", "$B:1"], special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    token = {"__type": "AddedToken", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    return tokenizer, {
        "bos_token": {**token, "content": bos},
        "eos_token": {**token, "content": "<｜end▁of▁sentence｜>"},
    }


def sentencepiece_specials():
    return ["<unk>", "<s>", "</s>"]


def wrap_with_bos(tokenizer):
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )


def llama2():
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    # Trained on words (the published merges never cross a space either), then run over whole texts.
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokens = sentencepiece_specials() + [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=VOCAB_SIZE, special_tokens=tokens, limit_alphabet=160, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer = only_special(tokenizer, sentencepiece_specials())
    tokenizer.pre_tokenizer = None
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    wrap_with_bos(tokenizer)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return tokenizer, {**names, "add_bos_token": True, "add_eos_token": True}


def mistral():
    """The same model with the Metaspace form of the pipeline."""
    tokenizer, config = llama2()
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return tokenizer, config


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    return tokenizer, {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def only_special(tokenizer, contents):
    """The trainer marks its byte tokens special; in the published files they are ordinary."""
    description = json.loads(tokenizer.to_str())
    description["added_tokens"] = [t for t in description["added_tokens"] if t["content"] in contents]
    return Tokenizer.from_str(json.dumps(description))


TRAINED = {f.__name__: f for f in (gpt2, llama3, qwen2, deepseek, llama2, mistral, unigram)}


def write(name, directory):
    """Makes DIRECTORY/tokenizer.json and tokenizer_config.json as published models of this family have them."""
    directory.mkdir()
    tokenizer, config = TRAINED[name]()
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **config}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


def smollm2():
    """The folder of the demo's model. Where it is not there yet it is made now, once for all tests: that takes a while."""
    directory = REPO / "models/SmolLM2-135M-Instruct"
    if not directory.exists():
        make = "import demo; demo.make_model()"
        environment = {**os.environ, "PYTHONPATH": "tools"}
        subprocess.run([sys.executable, "-c", make], cwd=REPO, env=environment, check=True, timeout=1200)
    return directory

#!/usr/bin/env python3
"""Turn The Devil's Dictionary (Ambrose Bierce, 1911, public domain) into chat rows: train.jsonl and valid.jsonl.

The text comes out of the Debian package dict-devil. Of each entry the first paragraph is kept, without the verse that
follows it. Left out are entries that are only verse or cut off by it, and those with slurs or with the period's talk
of peoples. The same seed gives the same bytes.
"""

import gzip
import json
import random
import re
import sys
from pathlib import Path

from support import BadData, NoInput, durable_file, parser, run, whole_folder

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGED = REPOSITORY / ".deps/dict-devil/usr/share/dictd/devil"

BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
ENTRY = re.compile(
    r"(?P<word>[A-Z][A-Z' -]+?),? ?"  # ABRIDGE,
    r"(?:[a-z]+\.)+(?:(?: and)? ?[a-z]+\.)*\s+"  # v.t.   or   n. and v.
    r"(?:\[[^\]]*\]\s*)?"  # [Latin: ...]
    r"(?P<meaning>.+)",
    re.DOTALL,
)
LEFT_OUT = re.compile(
    r"negro|nigger|darky|darkies|half-breed|\bjews?\b|jewish|hebrew|chinam|chinese|mongolian|african"
    r"|aborigin|savages|\bindians?\b|mahometan|mohammedan",
    re.IGNORECASE,
)
MISPRINTS = {"n ancient": "In ancient"}  # at the start of a meaning (OVATION)


def number(digits):
    """dictd writes offsets and lengths in base 64, most significant digit first."""
    value = 0
    for digit in digits:
        value = value * 64 + BASE64.index(digit)
    return value


def entries(base):
    """Yields the text of every entry of the dictionary at `base`.index and `base`.dict.dz, each once."""
    index, text = Path(f"{base}.index"), Path(f"{base}.dict.dz")
    for path in (index, text):
        if not path.is_file():
            raise NoInput(f"{path}: no such file; run tools/fetch_deb.sh dict-devil, or name it with --dict")
    seen = set()
    try:
        body = gzip.decompress(text.read_bytes())
        for line in index.read_text(encoding="utf-8").splitlines():
            word, start, length = line.split("\t")
            begin = number(start)
            if word.startswith("00database") or begin in seen:
                continue
            seen.add(begin)
            yield body[begin : begin + number(length)].decode()
    except (EOFError, gzip.BadGzipFile, ValueError) as error:
        raise BadData(
            f"{base}: not a dictd dictionary ({error}); delete .deps/dict-devil and fetch it again"
        ) from error


def tidy(meaning):
    meaning = re.sub(r"\s+", " ", meaning).replace("_", "").replace(" -- ", " - ").strip()
    for wrong, right in MISPRINTS.items():
        if meaning.startswith(wrong):
            meaning = right + meaning[len(wrong) :]
    return meaning[0].upper() + meaning[1:]


def chat_row(entry):
    """The question and answer made from an entry, or None if it has none worth learning."""
    first_paragraph = entry.split("\n\n")[0]
    match = ENTRY.match(first_paragraph)
    if not match or LEFT_OUT.search(first_paragraph):
        return None
    meaning = tidy(match["meaning"])
    if meaning[-1] not in ".!?\"')":  # the sentence goes on in the verse
        return None
    question = f"Define {match['word'].lower()}."
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": meaning}]}


def write_rows(path, rows):
    with durable_file(path) as file:
        for row in rows:
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())


def make(args):
    rows = [row for row in map(chat_row, entries(args.dict)) if row]
    if not 0 < args.valid < len(rows):
        raise BadData(f"--valid {args.valid}: must lie between 1 and {len(rows) - 1}, there are {len(rows)} rows")
    random.Random(args.seed).shuffle(rows)
    with whole_folder(args.out, args.force) as folder:
        write_rows(folder / "valid.jsonl", rows[: args.valid])
        write_rows(folder / "train.jsonl", rows[args.valid :])
    print(f"{args.out}: {len(rows) - args.valid} rows to train, {args.valid} to validate")


def main(argv=None):
    options = parser(__doc__, "tools/make_devil.py data/devil")
    options.add_argument("out", type=Path, metavar="FOLDER", help="the folder to make; must not exist yet")
    options.add_argument(
        "--dict", default=PACKAGED, metavar="BASE", help="path without .index and .dict.dz (default: %(default)s)"
    )
    options.add_argument(
        "--valid", type=int, default=100, metavar="ROWS", help="rows kept for validation (default: %(default)s)"
    )
    options.add_argument("--seed", type=int, default=1, help="of the shuffle before the split (default: %(default)s)")
    args = options.parse_args(argv)
    return run("make_devil", lambda: make(args))


if __name__ == "__main__":
    sys.exit(main())

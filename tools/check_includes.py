#!/usr/bin/env python3
"""Read the #include lines of the sources and fail on an arrow that points up or on a library outside its room.

The tables below are the rooms and arrows of docs/design.md; change both together.
"""

import argparse
import re
import sys
from pathlib import Path, PurePosixPath
from typing import NamedTuple

# Room -> the rooms that it may include besides itself: no more than it does. A room not named here is an error.
SHARED = {"base", "configs", "comms", "monitoring"}
PARTS = {"text", "data", "kernels", "weights", "model", "lora", "optim", "checkpoint"}
ARROWS = {
    "base": set(),
    "configs": {"base"},
    "comms": {"base"},
    "monitoring": {"base"},
    "trainer/text": {"base"},
    "trainer/data": {"base", "trainer/text"},
    "trainer/kernels": {"base"},
    "trainer/weights": {"base", "comms", "trainer/kernels"},
    "trainer/model": {"base", "trainer/data", "trainer/kernels", "trainer/weights"},
    "trainer/lora": {"base", "trainer/model", "trainer/weights"},
    "trainer/optim": {"base", "trainer/kernels"},
    "trainer/checkpoint": {"base"},
    "trainer": SHARED | {f"trainer/{part}" for part in PARTS},
    "launcher": SHARED | {"trainer", "trainer/weights", "trainer/lora", "trainer/checkpoint"},
}
TESTS = "tests"  # may include every room and every library; no room may include tests

# Library, its headers, the only files that may include them.
LIBRARIES = [
    ("yaml-cpp", r"yaml-cpp/", ["configs/yaml_tree.cc"]),
    ("prometheus-cpp", r"prometheus/", ["monitoring/metrics.cc"]),
    ("MPI", r"mpi\.h$", ["comms/world.cc", "comms/mpi.cc"]),
    ("NCCL", r"nccl\.h$", ["comms/nccl.cc"]),
    ("cuDNN", r"cudnn", ["trainer/kernels/gpu_attention.cc"]),
    ("cuBLASLt", r"cublasLt\.h$", ["trainer/kernels/gpu_gemm.cc"]),
    ("CLI11", r"CLI/", ["launcher/*.cc", "launcher/commands/*.cc"]),
    (
        "LibTorch",
        r"(torch|ATen|c10)/",
        ["comms/*.cc", "trainer/*.cc", "trainer/weights/*", "trainer/model/*", "trainer/lora/*", "trainer/optim/*"],
    ),
]

# Headers that cost half a minute a file, for tests as well.
TOO_SLOW = {"torch/torch.h", "torch/nn.h", "torch/extension.h"}

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCES = {".h", ".cc", ".cu", ".cuh"}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


class Include(NamedTuple):
    file: str  # path from the repository root
    line: int
    header: str  # as written
    ours: bool  # in quotes


def room_of(path):
    """The room that holds the path, or None. A room's folders belong to it, unless some of them are rooms themselves."""
    folder = PurePosixPath(path).parent
    for candidate in map(str, (folder, *folder.parents)):
        if candidate in ARROWS or candidate == TESTS:
            divided = any(room.startswith(f"{candidate}/") for room in ARROWS)
            return None if divided and candidate != str(folder) else candidate
    return None


def includes(root):
    """Yields every include of every source below the rooms, in a steady order."""
    tops = sorted({room.partition("/")[0] for room in ARROWS} | {TESTS})
    for path in sorted(p for top in tops for p in (root / top).rglob("*") if p.suffix in SOURCES):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if match := INCLUDE.match(line):
                yield Include(path.relative_to(root).as_posix(), number, match[2], match[1] == '"')


def library_problem(include):
    if include.header in TOO_SLOW:
        return "takes half a minute a file to compile; include what is used, as ATen/core/Tensor.h"
    for name, headers, allowed in LIBRARIES:
        if not re.match(headers, include.header) or room_of(include.file) == TESTS:
            continue
        if not any(PurePosixPath(include.file).match(pattern) for pattern in allowed):
            return f"{name} belongs to {', '.join(allowed)} alone; forward-declare its types or ask that file"
    return None


def arrow_problem(include, root):
    own, other = room_of(include.file), room_of(include.header)
    if own == TESTS:
        return None
    if own is None:
        return f"{include.file} is in no room; add its folder to ARROWS of tools/check_includes.py"
    if not include.ours:
        return "is ours; write it in quotes" if other else None
    if other is None:
        return "is no room/file.h, seen from the repository root; libraries go in angle brackets"
    if not (root / include.header).is_file():
        return "does not exist"
    if other != own and other not in ARROWS[own]:
        rooms = ", ".join(sorted(ARROWS[own])) or "nothing"
        return f"{own} may include {rooms}; move the code up or what it needs down"
    return None


def problems(found, root):
    """One line for each include that breaks a rule."""
    for include in found:
        reason = library_problem(include) or arrow_problem(include, root)
        if reason:
            yield f'{include.file}:{include.line}: "{include.header}": {reason}'


def main(argv=None):
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("root", nargs="?", type=Path, default=REPOSITORY, help="default: %(default)s")
    root = options.parse_args(argv).root
    found = list(includes(root))
    if not found:
        print(f"check_includes: no sources with includes below {root}", file=sys.stderr)
        return 1
    bad = list(problems(found, root))
    files = len({include.file for include in found})
    print("\n".join(bad) or f"check_includes: {len(found)} includes in {files} files, no arrow points up")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

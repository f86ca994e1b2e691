"""What the tools of this folder share: failures with an exit code, and folders that are whole or absent."""

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path


class ToolFailure(Exception):
    """A problem that the user can act on. `code` is the exit status, as of sysexits.h and like rankwise's own."""

    code = 70


class BadData(ToolFailure):
    code = 65


class NoInput(ToolFailure):
    code = 66


class CannotWrite(ToolFailure):
    code = 73


@contextlib.contextmanager
def whole_folder(out, replace):
    """Yields an empty folder beside `out` and renames it to `out` if the block succeeds; otherwise nothing is left."""
    if out.exists() and not replace:
        raise CannotWrite(f"{out}: exists already; pass --force to replace it")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        if out.exists():
            shutil.rmtree(out)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def durable_file(path):
    """A binary file that is on the disk when the block ends."""
    with open(path, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def parser(description, example):
    made = argparse.ArgumentParser(
        description=description, epilog=f"example: {example}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--force", action="store_true", help="replace the output folder if it exists")
    return made


def run(program, action):
    """The exit status of `action()`, its failure printed as one line."""
    try:
        action()
    except (ToolFailure, OSError) as failure:
        print(f"{program}: {failure}", file=sys.stderr)
        return failure.code if isinstance(failure, ToolFailure) else CannotWrite.code
    return 0

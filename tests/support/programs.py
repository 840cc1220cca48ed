"""Which programs make a test one of tests/process."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
OURS = re.compile(r"ansible[a-z-]*|gunicorn|haproxy|molecule|pytest|uv|git|make|sitectl|lab|python[0-9.]*")


def is_ours(command: Sequence[object]) -> bool:
    """Tell whether a command line starts a program of this project, or one that takes as long to start.

    Args:
        command: the program and its arguments. A few lines of Python that a test has itself (``python -c``) are
            neither, nor is a stand-in in a directory for temporary files.
    """
    words = [str(word) for word in command]
    while words and (words[0].endswith("env") or "=" in words[0]):
        words.pop(0)
    if not words:
        return False
    program = Path(words[0])
    if program.is_relative_to("/tmp"):
        return False
    if program.name.startswith("python") and "-c" in words[1:4]:
        return False
    return bool(OURS.fullmatch(program.name)) or (program.is_absolute() and program.is_relative_to(REPOSITORY))

"""How a release's virtual environment is filled by uv, and what to do when that fails."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

_INCLUDED = re.compile(r"^\s*(?:-r|--requirement)[ =]\s*(\S+)", re.MULTILINE)
_HASH = re.compile(r"^[^#\n]*\s--hash[ =]", re.MULTILINE)
_LOCAL_IN_LOCK = re.compile(r'^source = \{ (?:editable|directory) = "', re.MULTILINE)

_DEAD_INDEX = ("Failed to fetch", "error sending request", "dns error", "operation timed out")
_WRONG_HASH = ("Hash mismatch", "Hash-checking is required", "no trusted hash", "--require-hashes")
_NOT_THERE = ("No solution found", "network was disabled", "Network connectivity is disabled")


def has_hashes(requirements: Path) -> bool:
    """Tell whether a requirements file, or one that it includes, gives a hash."""
    seen: set[Path] = set()
    files = [requirements]
    while files:
        path = files.pop()
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        text = path.read_text(encoding="utf-8", errors="replace")
        if _HASH.search(text):
            return True
        files += [path.parent / name for name in _INCLUDED.findall(text)]
    return False


def install_steps(
    code: Path,
    uv: str,
    venv: Path,
    gunicorn_version: str,
    requirements: Sequence[str] = (),
    *,
    wheelhouse: Path | None = None,
) -> list[list[str]]:
    """Return the commands that fill the virtual environment from what the code brings.

    ``uv.lock`` wins over ``requirements.txt`` over ``pyproject.toml`` or ``setup.py``; code without any of them
    gets Gunicorn alone. Gunicorn comes last, so that the pinned version replaces whatever the app asked for.

    Args:
        code: the code's directory.
        uv: the program.
        venv: the virtual environment, there already.
        gunicorn_version: Gunicorn's version.
        requirements: what is installed besides.
        wheelhouse: a directory of packages; no index is asked then.
    """
    offline = ["--no-index", "--find-links", str(wheelhouse)] if wheelhouse else []
    pip = [uv, "pip", "install", "--python", str(venv / "bin/python"), "--compile-bytecode", *offline]
    sync = [uv, "sync", "--frozen", "--no-dev", "--no-editable", "--compile-bytecode", *offline]
    steps: list[list[str]] = []
    if (code / "uv.lock").exists():
        if wheelhouse:
            # A lock names the address of each file, and `uv sync` would go there. So what it locks comes as
            # requirements with hashes, and `uv sync` only finds that it is there.
            locked = str(venv / "locked.txt")
            steps.append([uv, "export", "--quiet", "--frozen", "--no-dev", "--no-emit-local", "--output-file", locked])
            steps.append([*pip, "--require-hashes", "-r", locked])
        if not wheelhouse or _LOCAL_IN_LOCK.search((code / "uv.lock").read_text(encoding="utf-8")):
            steps.append(sync)
    elif (code / "requirements.txt").exists():
        # uv alone checks the hashes that are there, and takes the packages without one as they come.
        strict = ["--require-hashes"] if has_hashes(code / "requirements.txt") else []
        steps.append([*pip, *strict, "-r", "requirements.txt"])
    elif (code / "pyproject.toml").exists() or (code / "setup.py").exists():
        steps.append([*pip, "."])
    if requirements:
        steps.append([*pip, *requirements])
    return [*steps, [*pip, f"gunicorn=={gunicorn_version}"]]


def advice(said: str, offline: bool, gunicorn_version: str) -> str:
    """Return what to do after a step failed, as a line to append; empty where uv's own words must do.

    Args:
        said: all that the step printed.
        offline: whether packages come from `app_wheelhouse` only.
        gunicorn_version: Gunicorn's version.
    """

    def has(marks: Sequence[str]) -> bool:
        return any(mark in said for mark in marks)

    if has(_WRONG_HASH):
        return (
            "\nWhere one requirement has a hash, each needs one, and a version (==). If you trust what is there now, "
            "make the file anew, for example: uv pip compile --generate-hashes requirements.in -o requirements.txt"
        )
    if offline and has(_NOT_THERE):
        return (
            "\nWith app_wheelhouse nothing else is asked: put what is missing there, for example: "
            f"pip download -d WHEELHOUSE -r requirements.txt gunicorn=={gunicorn_version} (docs/offline.md)"
        )
    if has(_DEAD_INDEX):
        return (
            "\nThe host cannot reach the package index: try again, set app_index_url to one that it can reach, "
            "or bring the packages along with app_wheelhouse (docs/offline.md)."
        )
    return ""

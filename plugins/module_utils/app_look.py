"""What a deploy with nothing to do would ask a host about its app, answered together with the deploy lock.

The action plugins ``app_release``, ``converged_unit`` and ``site_release`` take the answers in place of a call, as long
as the run has changed nothing since, and only where they say that all is as it should be. Whatever else there is to
say, the modules say it: they ask again.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .unit_health import healthy
from .unit_plan import changed_inputs

UNFINISHED = "UNFINISHED"
PROGRAM = Path("/usr/local/lib/sitekeeper/release")
ANSWER_SECONDS = 30


def release_id(label: str, parts: Mapping[str, Any]) -> str:
    """Return ``label-hash``, the same for the same inputs whatever the time and the host."""
    content = json.dumps(parts, sort_keys=True).encode()
    safe = "".join(c if c.isalnum() or c in "._" else "-" for c in label)[:40].strip("-.") or "code"
    return f"{safe}-{hashlib.sha256(content).hexdigest()[:12]}"


def release_parts(options: Mapping[str, Any], code: str, python: str) -> dict[str, Any]:
    """Return all that makes a release what it is.

    Args:
        options: those of the module ``app_release``.
        code: digest of the code.
        python: exact version of the interpreter.
    """
    wheels = options.get("wheelhouse_digest") or ""
    return {
        "code": code,
        "python": python,
        "gunicorn": options["gunicorn_version"],
        "requirements": options.get("requirements") or [],
        "shared": options.get("shared") or [],
        **({"wheelhouse": wheels} if wheels else {}),
    }


def is_complete(release: Path) -> bool:
    """Tell whether a release is there, finished, and its interpreter still works after an upgrade of the host."""
    return (
        (release / "release.json").exists()
        and not (release / UNFINISHED).exists()
        and (release / "venv/bin/python").exists()
    )


def version_command(python: str) -> list[str]:
    """Return the command that prints the exact version of an interpreter: a release is built anew after another."""
    return [python, "-c", "import sys; print(sys.version.split()[0])"]


def linked(root: Path) -> dict[str, str]:
    """Return the complete releases that the links ``current`` and ``next`` of an app lead to."""
    found = {}
    for link in ("current", "next"):
        try:
            name = (root / link).readlink().name
        except OSError:
            continue
        if is_complete(root / "releases" / name):
            found[link] = name
    return found


def drifted(record: str) -> list[str]:
    """Return which inputs of a process changed since it started; the record itself when there is none."""
    try:
        return changed_inputs(Path(record).read_text(encoding="utf-8"), lambda path: Path(path).read_bytes())
    except OSError:
        return [record]


def running(about: Mapping[str, Any], *, well: bool) -> dict[str, Any]:
    """Return the releases that an app has and how its processes are.

    Args:
        about: see `AppLook`.
        well: ask the app how it is.
    """
    return {
        "links": linked(Path(about["root"])),
        "drift": {record: drifted(record) for record in about["records"]},
        "health": {about["health_url"]: healthy(about["health_url"])} if well else {},
    }


class Question:
    """A program that answers while other things are looked at."""

    def __init__(self, argv: Sequence[str]) -> None:
        try:
            self._process: subprocess.Popen[bytes] | None = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        except OSError:
            self._process = None

    def answer(self) -> str:
        """Return what it printed; nothing when it failed or takes too long."""
        if self._process is None:
            return ""
        try:
            said = self._process.communicate(timeout=ANSWER_SECONDS)[0]
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            return ""
        return said.decode("utf-8", "replace").strip() if self._process.returncode == 0 else ""


class AppLook:
    """A look at an app on this host."""

    def __init__(self, about: Mapping[str, Any]) -> None:
        """Begin with what takes longest.

        Args:
            about: ``name`` and ``root`` of the app, ``python``, ``records`` of its units' inputs and ``health_url``;
                nothing for no look.
        """
        self._about = about
        if about:
            self._python = Question(version_command(str(about["python"])))
            self._switch = Question([str(PROGRAM), str(about["name"]), "switch", "--check", "--json"])

    def state(self, *, well: bool = True) -> dict[str, Any]:
        """Return what is known of the app.

        Args:
            well: ask the app how it is.
        """
        about = self._about
        if not about:
            return {}
        state = {**running(about, well=well), "python": {about["python"]: self._python.answer()}, "release": {}}
        try:
            said = json.loads(self._switch.answer())
        except ValueError:
            return state
        if said.get("settled"):
            state["release"] = said
        return state

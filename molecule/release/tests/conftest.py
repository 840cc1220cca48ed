"""A redeploy of a changed copy of the example app, from the controller, as an operator does it."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
INVENTORY = Path(__file__).resolve().parents[1] / "inventory"
RUN_SECONDS = 600
numbers = itertools.count(1)


@dataclass(frozen=True)
class Run:
    """How a playbook ended."""

    code: int
    output: str


@pytest.fixture
def playbook() -> Callable[..., Run]:
    """Run a playbook against the scenario's machine."""

    def run(name: str, **variables: object) -> Run:
        words = [word for key, value in variables.items() for word in ("-e", json.dumps({key: value}))]
        done = subprocess.run(
            ["ansible-playbook", "-i", str(INVENTORY), f"playbooks/{name}.yml", *words],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )
        return Run(done.returncode, done.stdout)

    return run


@pytest.fixture
def deploy(playbook, tmp_path) -> Callable[..., Run]:
    """Deploy a copy of the example app that was changed: text put at the end of app.py."""

    def run(change: str = "", **variables: object) -> Run:
        code = tmp_path / f"code-{next(numbers)}"
        shutil.copytree(REPOSITORY / "examples/currents", code, ignore=shutil.ignore_patterns("__pycache__", "*.db*"))
        with (code / "app.py").open("a") as file:
            file.write(f"\n# {code.name}\n{change}")
        return playbook("deploy", app_source=str(code), **variables)

    return run


@pytest.fixture
def released(root) -> Callable[[], list[dict]]:
    """What was done with releases, oldest first."""
    return lambda: json.loads(root.check_output("/usr/local/lib/sitekeeper/release currents list --json"))["records"]


@pytest.fixture
def current(site) -> Callable[[], str]:
    """The release that answers visitors, as they see it."""
    return lambda: site.get("/health").json["release"]

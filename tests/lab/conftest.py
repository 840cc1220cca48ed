"""The lab itself, as a user runs it: machines of both kinds, in a home of its own.

The images and packages of the usual home are used when they are there, so that nothing is built twice.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.kinds import KINDS
from lab.machine import Machine
from lab.paths import Home
from tests import skips

IMAGE = os.environ.get("LAB_TEST_IMAGE", "debian12")


def pytest_configure(config: pytest.Config) -> None:
    skips.install(config, ())


class Lab:
    """The command line, run as a user runs it."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def __call__(self, *arguments: str, expect: int = 0) -> str:
        result = subprocess.run(
            [sys.executable, "-m", "lab", *arguments],
            env={**os.environ, "LAB_HOME": str(self.home)},
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert result.returncode == expect, f"{arguments}: {result.returncode}\n{result.stdout}\n{result.stderr}"
        return result.stdout if not expect else result.stderr

    def up(self, name: str, kind: str, expect: int = 0) -> str:
        more = ("--memory", "1024", "--network", f"wire-{kind}", "--forward", "5555", "--json")
        return self("up", name, "--kind", kind, "--image", IMAGE, *more, expect=expect)

    def machine(self, name: str) -> Machine:
        return Machine(Home(self.home), name)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    home = tmp_path_factory.mktemp("lab")
    usual = Home.from_environment()
    for shared in (usual.images, usual.packages, usual.keys):
        shared.mkdir(parents=True, exist_ok=True)
        (home / shared.name).symlink_to(shared)
    lab = Lab(home)
    yield lab
    for name in Home(home).machine_names():
        lab("down", name)


@pytest.fixture(scope="session", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Both, one after the other; a test of one kind says `@of_kind`."""
    return str(request.param)


@pytest.fixture(scope="session")
def one(lab: Lab, kind: str) -> Iterator[dict[str, Any]]:
    yield json.loads(lab.up(f"one-{kind}", kind))
    lab("down", f"one-{kind}")


@pytest.fixture(scope="session")
def two(lab: Lab, kind: str) -> Iterator[dict[str, Any]]:
    yield json.loads(lab.up(f"two-{kind}", kind))
    lab("down", f"two-{kind}")

"""A redeploy of a changed copy of the example app, from the controller, as an operator does it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

import pytest


@pytest.fixture
def deploy(playbook, changed):
    """Deploy a copy of the example app that was changed: text put at the end of app.py."""
    return lambda change="", **variables: playbook("deploy", app_source=changed(change), **variables)


@dataclass(frozen=True)
class Checkout:
    """A directory that is of a commit."""

    path: str
    commit: str


@pytest.fixture
def checkout(changed) -> Checkout:
    """A changed copy of the example app, in a git repository of its own."""
    path = changed()

    def git(*words: str) -> str:
        named = ["git", "-C", path, "-c", "user.name=T", "-c", "user.email=t@example.org", *words]
        return subprocess.run(named, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "changed")
    return Checkout(path, git("rev-parse", "HEAD"))


@pytest.fixture
def released(root) -> Callable[[], list[dict]]:
    """What was done with releases, oldest first."""
    return lambda: json.loads(root.check_output("/usr/local/lib/sitekeeper/release currents list --json"))["records"]


@pytest.fixture
def current(site) -> Callable[[], str]:
    """The release that answers visitors, as they see it."""
    return lambda: site.get("/health").json["release"]

"""A redeploy of a changed copy of the example app, from the controller, as an operator does it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest


@pytest.fixture
def deploy(playbook, changed):
    """Deploy a copy of the example app that was changed: text put at the end of app.py."""
    return lambda change="", **variables: playbook("deploy", app_source=changed(change), **variables)


@pytest.fixture
def released(root) -> Callable[[], list[dict]]:
    """What was done with releases, oldest first."""
    return lambda: json.loads(root.check_output("/usr/local/lib/sitekeeper/release currents list --json"))["records"]


@pytest.fixture
def current(site) -> Callable[[], str]:
    """The release that answers visitors, as they see it."""
    return lambda: site.get("/health").json["release"]

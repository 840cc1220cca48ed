"""A short directory for sockets, and real Gunicorn."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import pytest

from tests.unit.keeper.site import running


@pytest.fixture
def short_path():
    """A directory whose path leaves room for the name of a socket (107 bytes together)."""
    with tempfile.TemporaryDirectory(prefix="keeper") as directory:
        yield Path(directory)


@pytest.fixture
def start():
    """Start a site: ``start(app, ...)`` takes what `running` takes. All are stopped at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda *words, **changes: stack.enter_context(running(*words, **changes))

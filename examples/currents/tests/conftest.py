from __future__ import annotations

import sys
from pathlib import Path

import pytest

APP_DIRECTORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(APP_DIRECTORY))

from currents import create_app  # noqa: E402 - the path has to be set first


class Clock:
    """A clock that only moves when a test says so."""

    def __init__(self) -> None:
        self.now = 1_770_800_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def database(tmp_path):
    return tmp_path / "currents.db"


@pytest.fixture
def make_app(database, clock):
    def make(**environ):
        return create_app({"CURRENTS_DATABASE": str(database), **environ}, CLOCK=clock)

    return make


@pytest.fixture
def client(make_app):
    return make_app().test_client()


@pytest.fixture
def faulty_client(make_app):
    return make_app(CURRENTS_ALLOW_FAULTS="yes").test_client()

"""A run of pytest on several processes fails for a skip that nobody expects."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.polling import PATIENCE_SECONDS

REPOSITORY = Path(__file__).resolve().parents[2]
CONFTEST = """
from tests.skips import install

def pytest_configure(config):
    install(config, {"expected"})
"""
TEST = """
import pytest

def test_that_runs():
    pass

@pytest.mark.skip(reason="REASON")
def test_that_does_not():
    pass
"""


@pytest.mark.parametrize(("reason", "status"), [("expected", 0), ("not today", 1)])
def test_an_unexpected_skip_fails_the_run(tmp_path, reason, status):
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_one.py").write_text(TEST.replace("REASON", reason))
    (tmp_path / "pytest.ini").write_text(f"[pytest]\npythonpath = {REPOSITORY}\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert f"1 skipped, {status} of them unexpectedly" in done.stdout
    assert f"test_one.py::test_that_does_not: {reason}" in done.stdout

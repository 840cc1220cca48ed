"""An unexpected skip fails the run, an expected one does not, and both are named."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.skips import Skips

REASON = "no root here"


def skip(reason, name="tests/test_a.py::test_a"):
    return SimpleNamespace(nodeid=name, skipped=True, longrepr=("tests/test_a.py", 3, f"Skipped: {reason}"))


def ended(plugin, status):
    session = SimpleNamespace(exitstatus=status)
    plugin.pytest_sessionfinish(session)
    return session.exitstatus


@pytest.fixture
def plugin():
    return Skips({REASON})


def test_a_skip_that_nobody_expects_fails_the_run(plugin):
    plugin.pytest_runtest_logreport(skip("not today"))
    assert ended(plugin, pytest.ExitCode.OK) == pytest.ExitCode.TESTS_FAILED


def test_a_file_that_is_skipped_as_a_whole_fails_the_run(plugin):
    plugin.pytest_collectreport(skip("could not import 'flask'", "tests/test_a.py"))
    assert ended(plugin, pytest.ExitCode.NO_TESTS_COLLECTED) == pytest.ExitCode.TESTS_FAILED


def test_an_expected_skip_does_not(plugin):
    plugin.pytest_runtest_logreport(skip(REASON))
    assert ended(plugin, pytest.ExitCode.OK) == pytest.ExitCode.OK


def test_what_fails_for_another_reason_stays_what_it_is(plugin):
    plugin.pytest_runtest_logreport(skip("not today"))
    assert ended(plugin, pytest.ExitCode.INTERRUPTED) == pytest.ExitCode.INTERRUPTED


def test_what_passes_or_fails_as_foretold_is_no_skip(plugin):
    plugin.pytest_runtest_logreport(SimpleNamespace(nodeid="a", skipped=False, longrepr=None))
    plugin.pytest_runtest_logreport(SimpleNamespace(nodeid="a", skipped=True, longrepr="", wasxfail="known"))
    assert plugin.skipped == []


def test_the_summary_counts_and_names_them(plugin):
    lines = []
    for report in (skip(REASON), skip("not today", "tests/test_b.py::test_b")):
        plugin.pytest_runtest_logreport(report)
    reporter = SimpleNamespace(section=lambda title, red: lines.append((title, red)), line=lines.append)
    plugin.pytest_terminal_summary(reporter)
    assert lines == [
        ("2 skipped, 1 of them unexpectedly", True),
        f"expected tests/test_a.py::test_a: {REASON}",
        "UNEXPECTED tests/test_b.py::test_b: not today",
    ]


def test_nothing_is_printed_where_nothing_was_skipped(plugin):
    plugin.pytest_terminal_summary(None)

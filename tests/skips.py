"""A test that is skipped without being expected to fails the run: what nobody runs proves nothing, and looks green."""

from __future__ import annotations

from collections.abc import Collection

import pytest

#: Why a test of tests/unit or tests/process may be skipped.
EXPECTED = frozenset({"only root gives a process back to its user"})


def reason_of(report: pytest.TestReport | pytest.CollectReport) -> str | None:
    """Return why a test, or a file of tests, was skipped; nothing when it was not.

    Args:
        report: what pytest says of one phase of a test, or of reading a file.
    """
    if not report.skipped or hasattr(report, "wasxfail"):
        return None
    place = report.longrepr
    return str(place[2] if isinstance(place, (list, tuple)) else place).removeprefix("Skipped: ")


class Skips:
    """A plugin for pytest: names all skipped tests at the end, and fails the run for those that are not expected.

    Args:
        expected: the reasons that are in order.
    """

    def __init__(self, expected: Collection[str] = EXPECTED) -> None:
        self.expected = expected
        self.skipped: list[tuple[str, str]] = []

    @property
    def unexpected(self) -> list[tuple[str, str]]:
        """Return name and reason of the tests that should have run."""
        return [(name, reason) for name, reason in self.skipped if reason not in self.expected]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a skipped test; with pytest-xdist the process that the others report to gets here, too."""
        if (reason := reason_of(report)) is not None:
            self.skipped.append((report.nodeid, reason))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a file that is skipped as a whole."""
        if (reason := reason_of(report)) is not None:
            self.skipped.append((report.nodeid, reason))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Turn a success into a failure."""
        if self.unexpected and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print how many were skipped, and which."""
        if not self.skipped:
            return
        count = len(self.unexpected)
        terminalreporter.section(f"{len(self.skipped)} skipped, {count} of them unexpectedly", red=bool(count))
        for name, reason in self.skipped:
            kind = "expected" if reason in self.expected else "UNEXPECTED"
            terminalreporter.line(f"{kind} {name}: {reason}")


def install(config: pytest.Config, expected: Collection[str] = EXPECTED) -> None:
    """Let a run of pytest fail for unexpected skips; a conftest.py calls it from `pytest_configure`.

    Args:
        config: the run's configuration.
        expected: the reasons that are in order.
    """
    if not config.pluginmanager.has_plugin("skips"):
        config.pluginmanager.register(Skips(expected), "skips")

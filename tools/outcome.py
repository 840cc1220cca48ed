"""What the output of one part of the tests says, and the closing table of all of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SILENT = re.compile(r"missing playbook|no tests found|no tests ran|verifier is disabled", re.IGNORECASE)
#: Made-up secrets of the tests' inventories: whatever prints one would print a real one.
CANARY = re.compile(r"canary-[0-9a-f]{16}")
#: What `lab down` says when what ran a machine had ended.
LOST = re.compile(r"LOST \S+ is stopped")
#: "3 passed in 0.12s", with or without what pytest draws around it.
CLOSING = re.compile(r" in [0-9.]+s\b")
COUNT = re.compile(r"(\d+) (passed|failed|skipped|error)")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
#: What pytest, Ansible, the lab and make say of a failure, inside of the frame that Molecule draws.
CAUSE = re.compile(r"\W*(?:\w+: )?((?:E   |FAILED |ERROR \S+\.py|fatal: |LOST |make: \*\*\*).*)")
#: What Ansible and the lab say of a failure follows it, indented.
DETAIL = re.compile(r"\W*? {4}(\S.*)")
#: Pytest's line of tests that were skipped: how many, where, why.
SKIP = re.compile(r"\W*SKIPPED (\[\d+\] .*)")
SHOWN_DETAILS = 6
#: The end of the output is what continuous integration keeps: enough to see what failed.
SHOWN_CAUSES = 25


@dataclass(frozen=True)
class Outcome:
    """How one part went.

    Attributes:
        name: of the part.
        passed, failed: tests.
        seconds: wall time.
        complaints: what is wrong besides tests that failed.
        failures: the first lines that say what failed and why.
        skips: pytest's lines of skipped tests.
        lost: whether what ran a machine ended: then a failure says nothing about what was tested.
        counts: whether it has tests to count.
        alone: the command that runs it alone.
    """

    name: str
    passed: int
    failed: int
    seconds: float
    complaints: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    skips: tuple[str, ...] = ()
    lost: bool = False
    counts: bool = True
    alone: str = ""

    @property
    def good(self) -> bool:
        """Tell whether it passed and really tested something."""
        return not self.failed and not self.complaints and (self.passed > 0 or not self.counts)


def plain(line: str) -> str:
    """Return a line without colours."""
    return COLOUR.sub("", line)


def silently_passed(lines: Iterable[str]) -> list[str]:
    """Return the lines in which Molecule says that it left something out.

    After a failure it looks for a cleanup, which most scenarios do not have.
    """
    return [clean for line in lines if SILENT.search(clean := plain(line).strip()) and "cleanup: " not in clean]


def counted(lines: Iterable[str]) -> tuple[int, int]:
    """Return how many tests passed and failed, from pytest's closing lines."""
    passed = failed = 0
    for line in lines:
        clean = plain(line)
        if CLOSING.search(clean) and (found := COUNT.findall(clean)):
            for number, word in found:
                passed += int(number) if word == "passed" else 0
                failed += int(number) if word in ("failed", "error") else 0
    return passed, failed


def failures(lines: Iterable[str]) -> list[str]:
    """Return the first different lines that say what failed and why, each with the first lines of its detail."""
    found: list[str] = []
    room = 0
    for line in lines:
        clean = plain(line).rstrip()
        if match := CAUSE.match(clean):
            found.append(match[1])
            room = SHOWN_DETAILS if match[1].startswith(("fatal", "LOST")) else 0
        elif room and (match := DETAIL.match(clean)):
            found.append(f"    {match[1]}")
            room -= 1
        else:
            room = 0
    return list(dict.fromkeys(found))[:SHOWN_CAUSES]


def skips(lines: Iterable[str]) -> list[str]:
    """Return what pytest says of skipped tests: how many, where, why."""
    return list(dict.fromkeys(match[1].rstrip() for line in lines if (match := SKIP.match(plain(line)))))


def closing(outcomes: Sequence[Outcome]) -> str:
    """Return the end of a run: a table, what failed with the command that runs it alone, what was skipped."""
    width = max(len("Part"), *(len(outcome.name) for outcome in outcomes))
    rows = [f"{'Part':<{width}}  tests  failed  seconds"]
    rows += [f"{one.name:<{width}}  {one.passed:5}  {one.failed:6}  {one.seconds:7.0f}" for one in outcomes]
    for one in (one for one in outcomes if not one.good):
        nothing = () if one.passed or one.failed or not one.counts else ("no test ran",)
        lost = ("a machine was lost, which says nothing about what was tested",) if one.lost else ()
        rows += ["", f"{one.name} failed. Alone: {one.alone}"]
        rows += [f"  {line}" for line in (*lost, *one.complaints, *nothing, *one.failures)]
    skipped = [f"  {one.name:<{width}}  {line}" for one in outcomes for line in one.skips]
    if skipped:
        rows += ["", "Skipped:", *skipped]
    # Alone on its line: what continuous integration reads.
    return "\n".join(
        [*rows, "", f"{sum(one.passed for one in outcomes)} passed, {sum(not one.good for one in outcomes)} failed"]
    )

"""Run every Molecule scenario in one go and close with a table of scenarios, tests and seconds.

Molecule passes silently over a side effect or a verify directory that does not exist; here that is a failure.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: It boots two machines, which fill two cores; those after it boot one each, so two of them run side by side.
FIRST = "default"
SIDE_BY_SIDE = 2
SILENT = re.compile(r"missing playbook|no tests found|no tests ran|verifier is disabled", re.IGNORECASE)
#: Made-up secrets of the tests' inventories: whatever prints one would print a real one.
CANARY = re.compile(r"canary-[0-9a-f]{16}")
#: "3 passed in 0.12s", with or without what pytest draws around it.
CLOSING = re.compile(r" in [0-9.]+s\b")
COUNT = re.compile(r"(\d+) (passed|failed|skipped|error)")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Outcome:
    """How one scenario went."""

    name: str
    passed: int
    failed: int
    seconds: float
    complaints: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Tell whether it passed and really tested something."""
        return not self.failed and not self.complaints and self.passed > 0


def silently_passed(lines: Iterable[str]) -> list[str]:
    """Return the lines in which Molecule says that it left something out."""
    return [clean for line in lines if SILENT.search(clean := COLOUR.sub("", line).strip())]


def counted(lines: Iterable[str]) -> tuple[int, int]:
    """Return how many tests passed and failed, from pytest's closing lines."""
    passed = failed = 0
    for line in lines:
        clean = COLOUR.sub("", line)
        if CLOSING.search(clean) and (found := COUNT.findall(clean)):
            for number, word in found:
                passed += int(number) if word == "passed" else 0
                failed += int(number) if word in ("failed", "error") else 0
    return passed, failed


def run(name: str) -> Outcome:
    """Run one scenario, its output going to the terminal as it comes, each line after the scenario's name."""
    start = time.monotonic()
    molecule = Path(sys.executable).with_name("molecule")
    lines: list[str] = []
    # Molecule looks for Ansible's programs on the PATH, also when ours was not activated.
    path = f"{molecule.parent}{os.pathsep}{os.environ['PATH']}"
    with subprocess.Popen(
        [molecule, "test", "--scenario-name", name],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(f"{name:>9} {line}", end="", flush=True)
            lines.append(line)
    passed, failed = counted(lines)
    complaints = silently_passed(lines)
    if any(CANARY.search(line) for line in lines):
        complaints.append("a secret of the inventory shows in the output")
    if process.returncode:
        complaints.append(f"molecule ended with {process.returncode}")
    return Outcome(name, passed, failed, time.monotonic() - start, tuple(complaints))


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the closing table."""
    width = max(len("Scenario"), *(len(outcome.name) for outcome in outcomes))
    rows = [f"{'Scenario':<{width}}  tests  failed  seconds"]
    for outcome in outcomes:
        rows.append(f"{outcome.name:<{width}}  {outcome.passed:5}  {outcome.failed:6}  {outcome.seconds:7.0f}")
        rows += [f"{'':<{width}}  {complaint}" for complaint in outcome.complaints]
    return "\n".join(rows)


def main(names: Sequence[str]) -> int:
    """Run the named scenarios, or all; return 0 when each passed and tested something."""
    found = sorted(path.parent.name for path in ROOT.glob("molecule/*/molecule.yml"))
    if not found:
        print("there is no scenario: molecule/*/molecule.yml matches no file")
        return 2
    chosen = list(names) or sorted(found, key=lambda name: name != FIRST)
    unknown = sorted(set(chosen) - set(found))
    if unknown:
        print(f"there is no scenario {', '.join(unknown)}; there are: {', '.join(found)}")
        return 2
    outcomes = [run(name) for name in chosen if name == FIRST]
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        outcomes += pool.map(run, [name for name in chosen if name != FIRST])
    print("\n" + table(outcomes))
    # Alone on its line: what continuous integration reads.
    print(f"\n{sum(o.passed for o in outcomes)} passed, {sum(not o.good for o in outcomes)} failed")
    return 0 if all(outcome.good for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

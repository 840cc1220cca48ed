"""Run every Molecule scenario in one go and close with a table of scenarios, tests and seconds.

Molecule passes silently over a side effect or a verify directory that does not exist; here that is a failure.
"""

from __future__ import annotations

import hashlib
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
#: It brings the site to a bare machine of each release of Debian.
FIRST = "default"
#: Those that go on with the first one's machines, one after the other on each: a site that is there already is brought
#: to other settings sooner than a bare machine.
LINES = {"debian12": ("release", "memory", "guests"), "debian13": ("restart", "tunnel")}
#: Two cores emulate two machines; a third one beside them takes as much from each as it gets.
SIDE_BY_SIDE = 2
#: Not among those that run without being named, and why: the summary says so.
BY_HAND = {
    "front": "an option that is off unless set; three minutes or more, run it by tools/scenarios.py front",
    "adopt": "takes eight minutes or more where the processor is emulated; run it by tools/scenarios.py adopt",
    "pressure": "takes a quarter of an hour where the processor is emulated; run it by tools/scenarios.py pressure",
    "rolling": "boots three machines, twelve minutes or more where emulated; run it by tools/scenarios.py rolling",
}
SILENT = re.compile(r"missing playbook|no tests found|no tests ran|verifier is disabled", re.IGNORECASE)
#: Made-up secrets of the tests' inventories: whatever prints one would print a real one.
CANARY = re.compile(r"canary-[0-9a-f]{16}")
#: "3 passed in 0.12s", with or without what pytest draws around it.
CLOSING = re.compile(r" in [0-9.]+s\b")
COUNT = re.compile(r"(\d+) (passed|failed|skipped|error)")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
#: What pytest and Ansible say of a failure, inside of the frame that Molecule draws.
CAUSE = re.compile(r"\W*(?:\w+: )?((?:E   |FAILED |fatal: |LOST ).*)")
#: What Ansible and the lab say of a failure follows it, indented.
DETAIL = re.compile(r"\W*? {4}(\S.*)")
SHOWN_DETAILS = 6
#: The end of the output is what continuous integration keeps: enough to see what failed.
SHOWN_CAUSES = 25
#: What `lab down` says when QEMU itself had ended.
LOST = re.compile(r"LOST \S+ is stopped")


@dataclass(frozen=True)
class Outcome:
    """How one scenario went."""

    name: str
    passed: int
    failed: int
    seconds: float
    complaints: tuple[str, ...]
    causes: tuple[str, ...] = ()
    """The first lines that say why something failed."""
    lost: bool = False
    """Whether QEMU ended under a machine: then a failure says nothing about what was tested."""

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


def causes(lines: Iterable[str]) -> list[str]:
    """Return the first different lines that say why something failed, each with the first lines of its detail."""
    found: list[str] = []
    room = 0
    for line in lines:
        clean = COLOUR.sub("", line).rstrip()
        if match := CAUSE.match(clean):
            found.append(match[1])
            room = SHOWN_DETAILS if match[1].startswith(("fatal", "LOST")) else 0
        elif room and (match := DETAIL.match(clean)):
            found.append(f"    {match[1]}")
            room -= 1
        else:
            room = 0
    return list(dict.fromkeys(found))[:SHOWN_CAUSES]


def prefix() -> str:
    """Return how the names of the shared machines begin: with the checkout, so that two of them can test at once."""
    return f"line-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:6]}"


def remove(image: str) -> list[str]:
    """Remove the shared machine of an image, if it is there; return what the lab says of it."""
    down = [sys.executable, "-m", "lab", "down", f"{prefix()}-{image}"]
    return subprocess.run(down, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False).stdout.splitlines()


def run(name: str, shared: Sequence[str] = ()) -> Outcome:
    """Run one scenario, its output going to the terminal as it comes, each line after the scenario's name.

    Args:
        name: of the scenario.
        shared: the images whose shared machines it uses; Molecule leaves those there, a failure removes them.
    """
    start = time.monotonic()
    molecule = Path(sys.executable).with_name("molecule")
    lines: list[str] = []
    # Molecule looks for Ansible's programs on the PATH, also when ours was not activated.
    path = f"{molecule.parent}{os.pathsep}{os.environ['PATH']}"
    with subprocess.Popen(
        [molecule, "test", "--scenario-name", name],
        cwd=ROOT,
        # Wide enough that no message is broken in two.
        env={**os.environ, "PATH": path, "COLUMNS": "200", "SCENARIO_MACHINES": prefix() if shared else ""},
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
    good = not failed and not complaints
    for image in () if good else shared:
        # Whatever it left is nobody's to begin with.
        lines += remove(image)
    why = () if good else tuple(causes(lines))
    lost = any(LOST.search(line) for line in lines)
    return Outcome(name, passed, failed, time.monotonic() - start, tuple(complaints), why, lost)


def run_line(names: Iterable[str], image: str) -> list[Outcome]:
    """Run scenarios one after the other on the shared machine of an image, and remove it."""
    try:
        return [run_again_if_lost(name, (image,)) for name in names]
    finally:
        remove(image)


def shared_lines(chosen: Sequence[str]) -> dict[str, list[str]]:
    """Return the images whose machine is used more than once, each with the scenarios that go on with it.

    One that shares with none of the chosen ones has machines of its own: it can run beside others of this checkout.
    """
    lines = {image: [name for name in line if name in chosen] for image, line in LINES.items()}
    if FIRST in chosen and any(lines.values()):
        return lines
    return {image: names for image, names in lines.items() if len(names) > 1}


def run_all(chosen: Sequence[str]) -> list[Outcome]:
    """Run scenarios: the first one, then those that go on with its machines, then those with machines of their own."""
    lines = shared_lines(chosen)
    others = [name for name in chosen if name != FIRST and all(name not in line for line in lines.values())]
    for image in lines:
        remove(image)  # what a killed run left
    try:
        outcomes = [run_again_if_lost(name, tuple(lines)) for name in chosen if name == FIRST]
    except BaseException:
        for image in lines:
            remove(image)
        raise
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        jobs = [pool.submit(run_line, names, image) for image, names in lines.items()]
        alone = [pool.submit(run_again_if_lost, name) for name in others]
    return [*outcomes, *(one for job in jobs for one in job.result()), *(job.result() for job in alone)]


def run_again_if_lost(name: str, shared: Sequence[str] = ()) -> Outcome:
    """Run one scenario, and once more when it failed because the emulator died under its machine.

    QEMU 7.2 can crash when it emulates on a busy computer (lab/machine.py tells how).
    """
    outcome = run(name, shared)
    if outcome.good or not outcome.lost:
        return outcome
    print(f"{name:>9} QEMU ended under a machine, which says nothing about the tests: running {name} once more")
    for cause in outcome.causes:
        print(f"{name:>9} {cause}")
    return run(name, shared)


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
    chosen = list(names) or [name for name in found if name not in BY_HAND]
    unknown = sorted(set(chosen) - set(found))
    if unknown:
        print(f"there is no scenario {', '.join(unknown)}; there are: {', '.join(found)}")
        return 2
    outcomes = run_all(chosen)
    print("\n" + table(outcomes))
    for outcome in outcomes:
        for cause in outcome.causes:
            print(f"{outcome.name:>9} {cause}")
    for name in sorted(set(found) - set(chosen) if not names else ()):
        print(f"left out: {name}: {BY_HAND[name]}")
    # Alone on its line: what continuous integration reads.
    print(f"\n{sum(o.passed for o in outcomes)} passed, {sum(not o.good for o in outcomes)} failed")
    return 0 if all(outcome.good for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

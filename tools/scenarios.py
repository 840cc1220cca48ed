"""Run every part of the tests side by side, as the cores allow, and close with what failed and nothing else.

A part is style (`lint`), the tests without a machine (`unit`, `process`), those of the lab (`lab`), or a scenario.

Molecule passes silently over a side effect or a verify directory that does not exist; here that is a failure.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import yaml

from lab.kinds import VM, Computer, choose, this_computer
from tools.outcome import CANARY, LOST, Outcome, closing, counted, failures, silently_passed, skips

ROOT = Path(__file__).resolve().parents[1]
#: Parts that are no scenario: name -> what runs them.
PARTS: Mapping[str, tuple[str, ...]] = {
    "lint": ("make", "--no-print-directory", "lint"),
    "unit": ("make", "--no-print-directory", "unit"),
    "process": ("make", "--no-print-directory", "process"),
    "lab": (sys.executable, "-m", "pytest", "tests/lab"),
}
#: Cores that a part keeps busy which is no scenario.
CORES = {"lint": 1.0, "unit": 2.0, "process": 2.0, "lab": 1.0}
#: What wants all cores first, then the longest, so that none is left over at the end; then those that are not named.
ORDER = ("unit", "process", "pressure", "memory", "restart", "default", "lab", "rolling", "tunnel", "release", "adopt")


@dataclass(frozen=True)
class Part:
    """One part of the tests, and how many cores it keeps busy."""

    name: str
    command: tuple[str, ...]
    cores: float = 0.5

    @property
    def alone(self) -> str:
        """The command that runs it alone."""
        return f"make {self.name}" if self.command[0] == "make" else f"make test ONLY={self.name}"


def cores_of(name: str, computer: Computer) -> float:
    """Return how many cores a scenario keeps busy: those of its emulated machines; half a one without, for it waits."""
    hosts = yaml.safe_load((ROOT / "molecule" / name / "inventory/hosts.yml").read_text())["all"]["hosts"].values()
    emulated = [host for host in hosts if choose(host.get("lab_needs", ()), computer) == VM and not computer.kvm]
    return float(sum(host.get("lab_cores", 1) for host in emulated)) or 0.5


def parts(names: Sequence[str], computer: Computer) -> list[Part]:
    """Return the parts of these names, the longest first."""
    molecule = str(Path(sys.executable).with_name("molecule"))
    ordered = sorted(names, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))
    return [
        Part(name, PARTS[name], CORES[name])
        if name in PARTS
        else Part(name, (molecule, "test", "--scenario-name", name), cores_of(name, computer))
        for name in ordered
    ]


def run(part: Part) -> Outcome:
    """Run one part, its output going to the terminal as it comes, each line after the part's name."""
    start = time.monotonic()
    lines: list[str] = []
    with subprocess.Popen(
        part.command,
        cwd=ROOT,
        # Molecule looks for Ansible's programs on the PATH, also when ours was not activated. The columns are enough
        # for messages not to be broken in two.
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "200"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(f"{part.name:>9} {line}", end="", flush=True)
            lines.append(line)
    passed, failed = counted(lines)
    complaints = silently_passed(lines)
    if any(CANARY.search(line) for line in lines):
        complaints.append("a secret of the inventory shows in the output")
    if process.returncode:
        complaints.append(f"ended with {process.returncode}")
    return Outcome(
        name=part.name,
        passed=passed,
        failed=failed,
        seconds=time.monotonic() - start,
        complaints=tuple(complaints),
        failures=tuple(failures(lines)) if failed or complaints else (),
        skips=tuple(skips(lines)),
        lost=any(LOST.search(line) for line in lines),
        counts=part.name != "lint",
        alone=part.alone,
    )


def run_again_if_lost(part: Part) -> Outcome:
    """Run one part, and once more when it failed because the emulator died under its machine.

    QEMU 7.2 can crash when it emulates on a busy computer (lab/vm.py tells how).
    """
    outcome = run(part)
    if outcome.good or not outcome.lost:
        return outcome
    print(f"{part.name:>9} a machine was lost, which says nothing about the tests: running {part.name} once more")
    return run(part)


def side_by_side(chosen: Sequence[Part], cores: float, one: Callable[[Part], Outcome]) -> list[Outcome]:
    """Run parts as the cores allow, in their order; one that wants more than are free lets smaller ones pass.

    Returns:
        The outcomes in the order of the parts.
    """
    free, waiting = cores, list(chosen)
    running: dict[Future[Outcome], Part] = {}
    outcomes: dict[str, Outcome] = {}
    with ThreadPoolExecutor(max(1, len(chosen))) as pool:
        while waiting or running:
            for part in list(waiting):
                if part.cores <= free or not running:
                    waiting.remove(part)
                    free -= part.cores
                    running[pool.submit(one, part)] = part
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                part = running.pop(future)
                free += part.cores
                outcomes[part.name] = future.result()
    return [outcomes[part.name] for part in chosen]


def main(names: Sequence[str]) -> int:
    """Run the named parts, all scenarios for `molecule`, or everything; return 0 when all is well and something ran."""
    scenarios = sorted(path.parent.name for path in ROOT.glob("molecule/*/molecule.yml"))
    if not scenarios:
        print("there is no scenario: molecule/*/molecule.yml matches no file")
        return 2
    everything = [*PARTS, *scenarios]
    chosen = list(names) or everything
    if chosen == ["molecule"]:
        chosen = scenarios
    if unknown := sorted(set(chosen) - set(everything)):
        print(f"there is no {', '.join(unknown)}; there are: {', '.join(everything)}; or molecule for all scenarios")
        return 2
    outcomes = side_by_side(parts(chosen, this_computer()), len(os.sched_getaffinity(0)), run_again_if_lost)
    print("\n" + closing(outcomes))
    return 0 if all(outcome.good for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

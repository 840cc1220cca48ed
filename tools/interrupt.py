"""``make interrupt``: kill a deploy after each of its tasks, cut the power in some, and see whether a rerun heals it.

One machine, two states of the site that differ in a line of code and in settings of every role. A run that leads
from one to the other is killed with SIGKILL after task k; then the site must serve, from a whole release, and the rerun
must reach what an undisturbed run reaches; a third run must change nothing. The result goes to ``.cache/results``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import yaml

from tools import demo
from tools.interruption import APP, ROOT, InterruptError, Outcome, Site, Step, Trial, points
from tools.markdown import table

DOCUMENT = ROOT / ".cache" / "results" / "interrupt.md"
#: What a machine without KVM needs; and a short watch, since it has to be over before the host is compared.
PATIENCE = {
    "release_watch_seconds": 5,
    "service_health_timeout_seconds": 240,
    "service_start_timeout_seconds": 240,
    "app_boot_timeout_seconds": 120,
}
#: The tasks during which the power is cut, and seconds after their begin: while a release is built, while it is proven,
#: and after the switch, when the file system's journal has it (5 s) but the kernel has not written all files (30 s).
CUTS = (
    ("app : Bring the release", 4.0),
    ("release : Prove the release, and switch to it", 3.0),
    ("service : run | Run the app as configured", 6.0),
)


def document(
    steps: Sequence[Step], taken: Sequence[int], outcomes: Sequence[Outcome], machine: str, left: int = 0
) -> str:
    """Return the result as a page.

    Args:
        steps: the tasks of an undisturbed run.
        taken: the numbers of those after which a run was to be killed.
        outcomes: what came of the interruptions.
        machine: what it was measured on.
        left: interruptions that were not tried any more.
    """
    failed = [outcome for outcome in outcomes if outcome.faults]
    rows = [
        [one.where, one.served, str(one.requests), f"{one.heal_seconds:.0f}", "**no**" if one.faults else "yes"]
        for one in outcomes
    ]
    return "\n".join(
        [
            "# Interrupted deploys",
            "",
            f"Written by `make interrupt` on {datetime.date.today().isoformat()}, on {machine}.",
            "",
            f"A run of `site.yml` that changes code and settings of every role has {len(steps)} tasks. It was killed",
            f"with SIGKILL after {len(taken)} of them; the others changed nothing and follow one that changed nothing,",
            "so that a kill leaves what the one before left. The power was cut in the middle of some. Visitors came",
            "meanwhile. After each, the rerun was compared with an undisturbed one (every file in `/etc`, `/opt` and",
            "`/usr/local`, the release, units, what runs against what is on disk, leftovers), and a third run had to",
            "change nothing.",
            "",
            f"{len(outcomes)} interruptions, {len(failed)} not healed."
            + (f" The last one could not be gone on from: {left} were not tried." if left else ""),
            "",
            *table(["interrupted after", "served then", "visitors", "rerun s", "healed"], rows),
            "",
            *(line for one in failed for line in (f"{one.where}:", "", "```", *one.faults, "```", "")),
        ]
    )


def say(outcome: Outcome) -> Outcome:
    """Print how an interruption went, and return it."""
    head = f"{'FAILED' if outcome.faults else 'healed'}  {outcome.where} (served then: {outcome.served})"
    print("\n    ".join([head, *outcome.faults]), flush=True)
    return outcome


def attempts(trial: Trial, taken: Sequence[int], cuts: Sequence[tuple[str, float]]) -> Iterator[Outcome]:
    """Interrupt run after run; the last outcome is one that the next could not go on from, its fault says why."""
    tries: list[tuple[str, Callable[[], Outcome]]] = [
        *((f"{number} {trial.steps[number - 1].task}", partial(trial.kill, number)) for number in taken),
        *((f"power, in {task}", partial(trial.cut, task, seconds)) for task, seconds in cuts),
    ]
    for where, interrupt in tries:
        try:
            yield interrupt()
        except InterruptError as error:
            yield Outcome(where, faults=[str(error)])
            return


def boot(name: str, scratch: Path) -> Site:
    """Make a machine and return the site on it, which is not deployed yet."""
    words = ("up", name, "--memory", "2048", "--seed-packages", demo.SEED_PACKAGES)
    machine = json.loads(demo.lab(*words, "--json", "--forward", str(demo.PORT)))
    hosts = demo.inventory(machine)
    hosts["all"]["hosts"][APP].update(PATIENCE)
    inventory = scratch / "inventory"
    inventory.mkdir()
    (inventory / "hosts.yml").write_text(yaml.safe_dump(hosts), encoding="utf-8")
    (inventory / "group_vars").symlink_to(ROOT / "group_vars")
    return Site(name, inventory, f"http://127.0.0.1:{machine['forwards'][str(demo.PORT)]}", scratch)


def main(argv: Sequence[str]) -> int:
    """Run the interruptions; return 0 when each was healed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="*", type=int, help="kill after these tasks only; nothing is written then")
    parser.add_argument("--cuts", type=int, default=len(CUTS), help="how many power cuts (default: %(default)s)")
    parser.add_argument("--machine", default="interrupt", help="name of the lab's machine (default: %(default)s)")
    chosen = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="interrupt-") as scratch:
        try:
            trial = Trial(boot(chosen.machine, Path(scratch)))
            trial.prepare()
            taken = chosen.numbers or points(trial.steps)
            print(f"{len(trial.steps)} tasks, of which {sum(step.changed for step in trial.steps)} change something")
            cuts = CUTS[: chosen.cuts]
            outcomes = [say(outcome) for outcome in attempts(trial, taken, cuts)]
        except InterruptError as error:
            print(f"interrupt: {error}")
            return 1
        finally:
            demo.lab("down", chosen.machine)
    if not chosen.numbers:
        left = len(taken) + len(cuts) - len(outcomes)
        text = document(trial.steps, taken, outcomes, f"{platform.machine()}, {os.cpu_count()} cores", left)
        DOCUMENT.parent.mkdir(parents=True, exist_ok=True)
        DOCUMENT.write_text(text, encoding="utf-8")
    failed = sum(bool(outcome.faults) for outcome in outcomes)
    print(f"{len(outcomes)} interruptions, {failed} not healed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

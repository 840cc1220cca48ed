"""The bench's part ``hosts``: what a run with nothing to do takes with eight hosts, against the same run with one."""

from __future__ import annotations

import contextlib
import functools
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from lab.errors import LabError
from lab.machine import Machine
from lab.paths import Home
from lab.ssh import run_remote
from tools.bench_part import ROOT, BenchError, Result, figure, progress
from tools.bench_site import APP, IMAGE, WELL_SECONDS, must, poll
from tools.bench_ways import Run, changed, cold, timed
from tools.demo import PATIENCE, PORT, SEED_PACKAGES, SMALL, SMALL_MIB, reached
from tools.markdown import table

PART = "hosts"
TITLE = "What more hosts cost"
HOSTS = 8
#: A run with all of them takes at most so many times as long as with one.
BOUND = 3.0
#: How often each is run; the median counts. They take turns.
ROUNDS = 3
PLAYBOOKS = {"site": "site.yml", "deploy": "playbooks/deploy.yml"}
ONE, ALL = "one", "all"
#: The watch after the first deploy has to be over before anything is measured.
WATCH_SECONDS = 5
ANSWER_SECONDS = 60.0
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Sample:
    """One run with nothing to do.

    Attributes:
        seconds: of the whole process.
        controller_seconds: of this computer's processors, what Ansible and its ssh used.
        machines_seconds: of them, what the machines used meanwhile, those that were not asked as well.
    """

    seconds: float
    controller_seconds: float
    machines_seconds: float


@contextlib.contextmanager
def booted() -> Iterator[list[Machine]]:
    """Boot the machines, as many at a time as this computer has cores; remove them at the end. Raises BenchError."""
    machines = [Machine(Home.from_environment(), f"bench-{number}") for number in range(1, HOSTS + 1)]
    words = ["--image", IMAGE, "--memory", str(SMALL_MIB), "--cores", "1", "--forward", str(PORT)]
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            packages = ("--packages", SEED_PACKAGES)
            list(pool.map(lambda one: must(sys.executable, "-m", "lab", "up", one.name, *words, *packages), machines))
        yield machines
    finally:
        for machine in machines:
            with contextlib.suppress(LabError):
                machine.down()


def inventory(machines: Sequence[Machine]) -> dict[str, Any]:
    """Return the inventory: the same app on each."""
    about = {"app_source": "examples/currents", "release_watch_seconds": WATCH_SECONDS, **SMALL, **PATIENCE}
    return {"all": {"hosts": {machine.name: {**reached(machine.describe()), **about} for machine in machines}}}


def is_watched(machine: Machine) -> bool:
    """Tell whether a release is still watched there, or nobody knows."""
    try:
        done = run_remote(machine.access(), ["systemctl", "is-active", f"{APP}-watch"], ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        return True
    return done.stdout.strip() != "inactive"


def used(pid: int | None) -> float:
    """Return the processor seconds of a process so far; see proc(5) for the file. Raises BenchError when it is gone."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError as error:
        raise BenchError(f"a machine is gone: {error}") from error
    return (int(words[11]) + int(words[12])) / TICKS


def sampled(run: Callable[[], Run], machines: Sequence[Machine]) -> Sample:
    """Run something that has nothing to do. Raises BenchError when it changes anything."""
    before = sum(used(machine.pid) for machine in machines)
    done = run()
    if changed(done.output) != 0:
        raise BenchError("a run changed something where nothing had to be done")
    meanwhile = sum(used(machine.pid) for machine in machines) - before
    return Sample(done.seconds, done.cpu_seconds, round(meanwhile, 1))


def median(samples: Sequence[Sample]) -> Sample:
    """Return the one that took the median time."""
    middle = statistics.median_low(one.seconds for one in samples)
    return next(one for one in samples if one.seconds == middle)


def measure() -> dict[str, Any]:
    """Boot the machines, put the app on each, then let playbooks find nothing to do; see `tools.bench_part.Part`."""
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    with tempfile.TemporaryDirectory() as scratch, booted() as machines:
        hosts = Path(scratch, "hosts.yml")
        hosts.write_text(yaml.safe_dump(inventory(machines)), encoding="utf-8")
        hosts.with_name("group_vars").symlink_to(ROOT / "group_vars")
        emulated, cores = machines[0].describe()["accelerator"] == "tcg", os.cpu_count() or 1
        # Emulated ones take each other's processor: a first look at eight at once needed 107 s (2026-11-28, 2 cores).
        abreast = ["--forks", str(cores)] if emulated else []
        progress(PART, f"the first site.yml, on {HOSTS} hosts")
        must(program, "-i", str(hosts), "site.yml", *abreast)
        if not poll(lambda: not any(map(is_watched, machines)), WELL_SECONDS):
            raise BenchError("a release is watched for ever")
        limits = {ONE: ["--limit", machines[0].name], ALL: []}
        samples: dict[str, dict[str, list[Sample]]] = {name: {ONE: [], ALL: []} for name in PLAYBOOKS}
        for turn in range(ROUNDS):
            for name, playbook in PLAYBOOKS.items():
                for which, limit in limits.items():
                    progress(PART, f"{playbook} on {which}, {turn + 1} of {ROUNDS}")
                    words = [program, "-i", str(hosts), playbook, *limit, *abreast]
                    with cold() as environment:
                        samples[name][which].append(sampled(functools.partial(timed, words, environment), machines))
        about = machines[0].describe()
    return {
        "machine": f"{HOSTS} machines with {about['image']} on 1 core each ({about['accelerator']})",
        "emulated": emulated,
        "cores": cores,
        "runs": {
            name: {which: asdict(median(some)) for which, some in kinds.items()} for name, kinds in samples.items()
        },
    }


def ratio_of(run: Result) -> float:
    """Return how many times longer than one host all of them took."""
    return float(run[ALL]["seconds"] / run[ONE]["seconds"])


def page(result: Result) -> list[str]:
    """Return the section; see `tools.bench_part.Part`."""
    rows = []
    for name, run in result["runs"].items():
        times = [figure(run[which]["seconds"]) for which in (ONE, ALL)]
        verdict = "pass" if ratio_of(run) <= BOUND else "not judged" if result["emulated"] else "**FAIL**"
        rows.append([f"`{Path(PLAYBOOKS[name]).name}`", *times, figure(ratio_of(run), 2), f"{BOUND:g}", verdict])
    return [
        "The example app on each; nothing to do. Whole processes, each with new ssh logins;",
        f"the median of {ROUNDS}, in turns. All machines are on one computer with {result['cores']} cores.",
        "",
        *table(("playbook", "one host s", f"{HOSTS} hosts s", "ratio", "at most", "verdict"), rows),
        "",
        *_limit_lines(result),
    ]


def _limit_lines(result: Result) -> list[str]:
    run, cores = result["runs"]["site"][ALL], result["cores"]
    given = run["seconds"] * cores
    machines, controller = (run[f"{whose}_seconds"] for whose in ("machines", "controller"))
    lines = [
        f"What limits it: in the {figure(run['seconds'])} s of `site.yml` with {HOSTS} hosts, {cores} cores have"
        f" {figure(given)} s to give.",
        f"Ansible used {figure(controller)} s of them ({controller / given:.0%}), the machines {figure(machines)} s"
        f" ({machines / given:.0%}).",
    ]
    if result["emulated"]:
        lines += [
            f"The machines are emulated, and were asked {cores} at a time (`--forks {cores}`; as configured it is 20):",
            "real hosts bring cores of their own, and leave these to Ansible. The bound is for those.",
            "Figures of hosts without emulation: [design.md](design.md#where-the-time-of-a-redeploy-goes).",
        ]
    return lines


def failures(result: Result) -> list[str]:
    """Return the promises that were not kept; see `tools.bench_part.Part`."""
    return [
        f"{HOSTS} hosts with nothing to do, `{PLAYBOOKS[name]}` : one: {ratio_of(run):.2f}, at most {BOUND:g}"
        for name, run in result["runs"].items()
        if ratio_of(run) > BOUND and not result["emulated"]
    ]

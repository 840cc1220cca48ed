"""The bench's part ``deploy``: what a deploy costs, against other ways to deploy, and what ten cost visitors."""

from __future__ import annotations

import contextlib
import json
import statistics
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tools.bench_part import ROOT, BenchError, Result, figure, progress
from tools.bench_site import SETTINGS, THREADS, WORKERS, Bench, Site
from tools.bench_ways import PACKAGES, PORTS, WAYS, Deploys, Run, changed, copied, phases
from tools.demo import PORT, SEED_PACKAGES
from tools.load import Ask, Load
from tools.markdown import table

PART = "deploy"
TITLE = "What a deploy costs"
#: How often each is run; the median counts. They take turns: how busy this computer is changes from minute to minute.
ROUNDS = 3
IDLE = {"ping": str(WAYS / "ping.yml"), "deploy": "playbooks/deploy.yml", "site": "site.yml"}
#: What the page calls them.
RIVALS = {"script": "the script", "ansistrano": "Ansistrano's steps"}
STREAK = 10
#: Visitors a second during the streak: half of them keep their connections.
RATE = 20.0
#: The watch after a deploy is no part of it. It has to be over before the next measurement.
WATCH_SECONDS = 5


@dataclass(frozen=True)
class Promise:
    """What is promised of a ratio.

    Attributes:
        words: its name in the table.
        ours, other: what is divided by what, names in the result's ``seconds``.
        bound: the ratio.
        least: whether it has to be at least that, and not at most.
    """

    words: str
    ours: str
    other: str
    bound: float
    least: bool = False

    def kept(self, ratio: float) -> bool:
        """Tell whether a ratio is as promised."""
        return ratio >= self.bound if self.least else ratio <= self.bound

    @property
    def bound_words(self) -> str:
        """Return the bound for the table."""
        return f"at {'least' if self.least else 'most'} {self.bound:g}"


PROMISES = (
    Promise("a changed line, `deploy.yml` : a script that checks nothing", "redeploy", "script", 3),
    Promise("a changed line, `deploy.yml` : Ansistrano's steps", "redeploy", "ansistrano", 0.5),
    Promise("nothing to do, `deploy.yml` : a ping", "deploy", "ping", 2.5),
    Promise("nothing to do, `site.yml` : a ping", "site", "ping", 6),
    Promise("`site.yml`, first : with nothing to do", "first", "site", 4, least=True),
)


def idle_runs(deploys: Deploys) -> dict[str, list[Run]]:
    """Run a ping and the playbooks that have nothing to do, in turns. Raises BenchError when one changes something."""
    runs: dict[str, list[Run]] = {name: [] for name in IDLE}
    for turn in range(ROUNDS):
        for name, playbook in IDLE.items():
            progress(PART, f"nothing to do, {name}, {turn + 1} of {ROUNDS}")
            run = deploys.play(playbook)
            if changed(run.output):
                raise BenchError(f"{playbook} changed something where nothing had to be done")
            runs[name].append(run)
    return runs


def redeploys(deploys: Deploys) -> dict[str, list[Run]]:
    """Deploy a changed line in each way, in turns; the rivals once before, since the site's caches are full already."""
    for name in RIVALS:
        progress(PART, f"a changed line, {name}, to fill caches")
        deploys.deploy(name)
    runs: dict[str, list[Run]] = {name: [] for name in (*RIVALS, "redeploy")}
    for turn in range(ROUNDS):
        for name, kept in runs.items():
            progress(PART, f"a changed line, {name}, {turn + 1} of {ROUNDS}")
            kept.append(deploys.deploy("playbook" if name == "redeploy" else name))
        deploys.wait_unwatched()
    return runs


def streak(deploys: Deploys, site: Site) -> dict[str, Any]:
    """Deploy ten times in a row while visitors come; return what became of them, and the releases that they saw."""
    asks = [Ask(f"{site.url}/health", keep_alive=keep) for keep in (True, False)]
    seen, seconds = [release_at(site.url)], []
    with site.inside() as inside, contextlib.ExitStack() as running:
        loads = [running.enter_context(Load(ask, rate=RATE / len(asks), seconds=3600)) for ask in asks]
        for number in range(STREAK):
            progress(PART, f"under load, {number + 1} of {STREAK}: {loads[0].so_far().summary().line()}")
            seconds.append(deploys.deploy("playbook").seconds)
            seen.append(release_at(site.url))
        kept, new = (load.stop().summary() for load in loads)
    return {
        "kept": kept.outcomes,
        "new": new.outcomes,
        "inside": dict(inside),
        "longest_wait_seconds": round(max(kept.longest_wait, new.longest_wait), 1),
        "median_wait_seconds": round(statistics.median([kept.waits.get("p50", 0.0), new.waits.get("p50", 0.0)]), 3),
        "releases": seen,
        "deploy_seconds": seconds,
    }


def release_at(url: str) -> str:
    """Return the release that a visitor is answered by. Raises BenchError."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=60) as answer:
            return str(json.load(answer)["release"])
    except (OSError, ValueError, KeyError) as error:
        raise BenchError(f"no release is seen from outside: {error}") from error


def medians(runs: Mapping[str, Sequence[Run]]) -> dict[str, float]:
    """Return the median seconds of each."""
    return {name: round(statistics.median(run.seconds for run in some), 2) for name, some in runs.items()}


def answered(runs: Mapping[str, Sequence[Run]]) -> dict[str, float]:
    """Return the median seconds until what was deployed answered."""
    return {name: round(statistics.median(run.answered_seconds for run in some), 2) for name, some in runs.items()}


def phases_of(runs: Sequence[Run]) -> dict[str, float]:
    """Return the phases of the run that took the median time."""
    return phases(sorted(runs, key=lambda run: run.seconds)[len(runs) // 2].output)


def measure() -> dict[str, Any]:
    """Boot a machine and deploy to it in every way; see `tools.bench_part.Part`."""
    with TemporaryDirectory() as scratch:
        code = copied(ROOT / "examples" / "currents", Path(scratch) / "code")
        bench = Bench(
            packages=f"{SEED_PACKAGES},{PACKAGES}",
            ports=(PORT, *PORTS.values()),
            settings={**SETTINGS, "app_source": str(code), "release_watch_seconds": WATCH_SECONDS},
        )
        progress(PART, "a machine, and the first site.yml")
        with bench as site:
            deploys = Deploys(bench, site, code)
            deploys.prepare()
            deploys.wait_unwatched()
            idle = idle_runs(deploys)
            busy = redeploys(deploys)
            under_load = streak(deploys, site)
            machine = bench.described()
            emulated = bench.emulated()
    return {
        "machine": machine,
        "emulated": emulated,
        "seconds": {"first": bench.first_seconds, **medians(idle), **medians(busy)},
        "answered_seconds": answered(busy),
        "phases": {"redeploy": phases_of(busy["redeploy"]), "deploy": phases_of(idle["deploy"])},
        "streak": under_load,
    }


def ratio_of(promise: Promise, seconds: Mapping[str, float]) -> float:
    """Return a measured ratio."""
    return seconds[promise.ours] / seconds[promise.other]


def bad_answers(found: Mapping[str, Any]) -> dict[str, int]:
    """Return the outcomes of the streak's requests that were not good, those from the machine itself as well."""
    every: Counter[str] = sum((Counter(found[name]) for name in ("kept", "new", "inside")), Counter())
    return {name: count for name, count in every.items() if name != "ok"}


def new_releases(found: Mapping[str, Any]) -> int:
    """Return how many releases visitors saw come."""
    return len(set(found["releases"])) - 1


def page(result: Result) -> list[str]:
    """Return the section; see `tools.bench_part.Part`."""
    seconds, found = result["seconds"], result["streak"]
    rows = []
    for one in PROMISES:
        ratio = ratio_of(one, seconds)
        verdict = "pass" if one.kept(ratio) else "**FAIL**"
        times = [figure(seconds[name]) for name in (one.ours, one.other)]
        rows.append([one.words, *times, figure(ratio, 2), one.bound_words, verdict])
    return [
        f"The example app, {WORKERS} workers with {THREADS} threads. Whole processes, each with a new ssh login;",
        f"the median of {ROUNDS}, in turns.",
        "",
        *table(("what", "s", "against s", "ratio", "promised", "verdict"), rows),
        "",
        *_RIVALS,
        _answered_line(result["answered_seconds"]),
        *(_EMULATED if result["emulated"] else ()),
        "",
        "Which phase costs what, in seconds; with nothing to do, the same phase:",
        "",
        *table(("phase", "a changed line", "nothing to do"), _phase_rows(result["phases"])),
        "",
        *_streak_lines(found),
    ]


_RIVALS = (
    "- The script, [script.sh](../tools/ways/script.sh): rsync, `uv pip install` into a fresh virtual environment,",
    "  `systemctl restart`. It does not look whether the app starts, and ends before it has.",
    "- Ansistrano's steps, [deploy.yml](../tools/ways/ansistrano/deploy.yml): what the role does by rsync, then pip,",
    "  also into a fresh virtual environment, restart, health check. With Ansible as it comes: no pipelining, facts",
    "  gathered.",
)
_EMULATED = (
    "- The processor is emulated: what the machine does takes some ten times as long as it would, what the controller",
    "  does takes as long as ever. A boot of the app weighs more here than on a real host, the network less.",
)


def _answered_line(found: Mapping[str, float]) -> str:
    ways = {"redeploy": "`deploy.yml`", **RIVALS}
    each = ", ".join(f"{words} after {figure(found[name])} s" for name, words in ways.items())
    return f"- Until what was deployed answered a visitor: {each}."


def _phase_rows(found: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    names = dict.fromkeys([*found["redeploy"], *found["deploy"]])
    return [[name, *(figure(found[run].get(name)) for run in ("redeploy", "deploy"))] for name in names]


def _streak_lines(found: Mapping[str, Any]) -> list[str]:
    asked = sum(sum(found[name].values()) for name in ("kept", "new", "inside"))
    bad = ", ".join(f"{count} {name}" for name, count in bad_answers(found).items()) or "none refused, none failed"
    each = statistics.median(found["deploy_seconds"])
    return [
        f"{STREAK} deploys in a row, each took {each:.1f} s (median), under {RATE:.0f} requests a second from outside,",
        f"half of them on connections that are kept, and more from the machine itself: {asked} requests, **{bad}**.",
        f"Median wait {found['median_wait_seconds']:.3f} s, longest {found['longest_wait_seconds']:.1f} s; "
        f"visitors saw {new_releases(found)} new releases.",
    ]


def failures(result: Result) -> list[str]:
    """Return the promises that were not kept; see `tools.bench_part.Part`."""
    bad = []
    for one in PROMISES:
        if not one.kept(ratio := ratio_of(one, result["seconds"])):
            bad.append(f"{one.words}: {ratio:.2f}, {one.bound_words}")
    found = result["streak"]
    if outcomes := bad_answers(found):
        bad.append(f"{STREAK} deploys under load: {', '.join(f'{count} {name}' for name, count in outcomes.items())}")
    if new_releases(found) != STREAK:
        bad.append(f"{STREAK} deploys under load: visitors saw {new_releases(found)} new releases")
    return bad

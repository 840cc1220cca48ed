"""The bench's part ``recovery``: what each fault costs visitors, held against what is promised, on one real machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tools.bench_faults import CROWD, POSTS, RATE, trial
from tools.bench_part import Result, figure
from tools.bench_site import HIGH_MIB, MAX_MIB, THREADS, WORKERS, Bench
from tools.markdown import table

TITLE = "What a fault costs"
PASS, SLOW, FAIL = "pass", "slow", "FAIL"


@dataclass(frozen=True)
class Promise:
    """What is promised of one fault.

    Attributes:
        fault: its name in `tools.bench_faults`.
        words: its name in the table.
        seconds: within which visitors are served again; None when that is not asked.
        plus: what is added to them: `app` or `machine`, whose own boot it is.
        refused: whether visitors may be refused.
        failed: which requests may fail: `none` of all, those `in flight`, or `any`.
    """

    fault: str
    words: str
    seconds: float | None
    plus: str
    refused: bool
    failed: str


PROMISES = (
    Promise("worker-kill", "one worker killed", 1, "", False, "in flight"),
    Promise("master-kill", "master killed", 2, "app", False, "none"),
    Promise("restart", "graceful restart", None, "", False, "none"),
    Promise("oom", "cgroup OOM, one worker", 1, "", False, "in flight"),
    Promise("leak", "leak 1 MB a request, 5 times the limit", None, "", False, "none"),
    Promise("hang", "all workers hung", 20, "", False, "any"),
    Promise("workers-stop", "all workers frozen", 20, "", False, "any"),
    Promise("reboot", "reboot", 5, "machine", True, "any"),
)
#: Behind the front no GET may fail, also of those in flight; a POST that dies with its worker is never sent twice.
BEHIND_FRONT = PROMISES[:5]
_HEADINGS = (
    *("fault", "took effect", "bound s", "back s", "all workers s", "longest wait s"),
    *("refused", "failed in flight", "failed later", "verdict"),
)
_SLOW = (
    "- `slow`: the processor is emulated, and the bound is missed by no more than the app's own boot. The ratio says",
    "  how long it took against that boot (a reboot: against the machine's).",
)


def limit_of(promise: Promise, boots: Mapping[str, float]) -> float | None:
    """Return within how many seconds the site has to be back; `boots` are the own boots of app and machine."""
    if promise.seconds is None:
        return None
    return promise.seconds + (boots[promise.plus] if promise.plus else 0.0)


def judge(
    promise: Promise, found: Mapping[str, Any], boots: Mapping[str, float], front: bool, emulated: bool
) -> tuple[str, str]:
    """Return the verdict on a fault, and why.

    A bound in seconds that an emulated processor breaks by no more than the app's own boot there is `slow`, with the
    ratio to that boot (for a reboot: the machine's); nothing else excuses anything.
    """
    methods = ("GET",) if front else ("GET", "POST")
    flying, later = (sum(found[key][name] for name in methods) for key in ("failed_in_flight", "failed_later"))
    broken = []
    if not found["evidence"]:
        broken.append("nothing shows that it took effect")
    if found["refused"] and not promise.refused:
        broken.append(f"{found['refused']} refused")
    if later and promise.failed != "any":
        broken.append(f"{later} failed")
    if flying and (promise.failed == "none" or (front and promise.failed == "in flight")):
        broken.append(f"{flying} in flight failed")
    broken += [f"{found[key]} {key}" for key in ("memory_high_events", "oom_kills") if found.get(key)]
    limit, back = limit_of(promise, boots), found["back_seconds"]
    if limit is None:
        return (FAIL, ", ".join(broken)) if broken else (PASS, "")
    if back is None:
        broken.append("not back")
    elif back > limit and not (emulated and back <= limit + boots["app"]):
        broken.append(f"back after {back:.1f} s, not {limit:.1f}")
    if broken or back is None:
        return FAIL, ", ".join(broken)
    if back <= limit:
        return PASS, ""
    whose = promise.plus or "app"
    return SLOW, f"{back / boots[whose]:.1f} x the {whose}'s boot"


def bound_words(promise: Promise, boots: Mapping[str, float]) -> str:
    """Return a bound for the table, such as ``2 + boot = 7.4``."""
    if promise.seconds is None:
        return "-"
    return f"{promise.seconds:g}" + (f" + boot = {limit_of(promise, boots):.1f}" if promise.plus else "")


def row_of(
    promise: Promise, found: Mapping[str, Any], boots: Mapping[str, float], front: bool, emulated: bool
) -> dict[str, Any]:
    """Return what is kept of a fault."""
    verdict, why = judge(promise, found, boots, front, emulated)
    words = promise.words + (", behind the front" if front else "")
    return {"fault": words, "bound": bound_words(promise, boots), "verdict": verdict, "why": why, **found}


def measure() -> dict[str, Any]:
    """Boot a machine, break it in every way; see `tools.bench_part.Part`."""
    rows: list[dict[str, Any]] = []
    bench = Bench()
    with bench as site:
        emulated = bench.emulated()
        boots: dict[str, float] = {}
        for front, promises in ((False, PROMISES), (True, BEHIND_FRONT)):
            if front:
                bench.play("playbooks/deploy.yml", "-e", "front=haproxy")
            for promise in promises:
                if promise.plus == "app" or "app" not in boots:
                    # Just before: how busy this computer is changes from minute to minute.
                    site.wait_well()
                    boots["app"] = round(site.boot_seconds(), 2)
                measured = trial(site, promise.fault)
                found = {**measured, "app_boot_seconds": boots["app"], "load_average": round(os.getloadavg()[0], 1)}
                if "machine_boot_seconds" in found:
                    boots["machine"] = found["machine_boot_seconds"]
                rows.append(row_of(promise, found, boots, front, emulated))
                print(f"bench: {rows[-1]}", file=sys.stderr)
        machine = bench.described()
    return {"machine": machine, "machine_boot_seconds": boots["machine"], "rows": rows}


def page(result: Result) -> list[str]:
    """Return the section; see `tools.bench_part.Part`."""
    own, loads = (sorted(row[name] for row in result["rows"]) for name in ("app_boot_seconds", "load_average"))
    slow = any(row["verdict"] == SLOW for row in result["rows"])
    return [
        f"The example app, {WORKERS} workers with {THREADS} threads, {HIGH_MIB} MB high and {MAX_MIB} MB at most.",
        f"Visitors come from outside of the machine, {RATE:.0f} a second, and more at the moment of the fault:",
        f"{CROWD} for a page, {POSTS} with a POST that takes half a second. Others come from the machine itself, to be",
        "refused: a forwarded port of QEMU takes a connection whether somebody listens or not.",
        "",
        "The app's own boot, plain Gunicorn from its start to its first answer, measured before each row that is",
        f"bound to it: **{own[0]:.1f} to {own[-1]:.1f} s**. The machine's own, from the order to reboot until a login "
        f"greets: **{result['machine_boot_seconds']:.1f} s**. The load average of the computer that ran it all was "
        f"{loads[0]:.1f} to {loads[-1]:.1f}.",
        "",
        *table(_HEADINGS, [_cells(row) for row in result["rows"]]),
        "",
        "- Back: the first of three good answers in a row; after a new start only answers since then count.",
        "- Failed: GET / POST. In flight are those who were being served at that moment. Behind the front only",
        "  GETs are promised: a POST is never sent twice.",
        *(_SLOW if slow else ()),
    ]


def _cells(row: Mapping[str, Any]) -> list[str]:
    """Return a fault's line of the table."""

    def both(key: str, of: str = "") -> str:
        return " / ".join(str(row[key][name]) + (f" of {row[of][name]}" if of else "") for name in ("GET", "POST"))

    return [
        row["fault"],
        row["evidence"] or "no",
        row["bound"],
        *(figure(row[name]) for name in ("back_seconds", "whole_seconds", "longest_wait_seconds")),
        str(row["refused"]),
        both("failed_in_flight", "in_flight"),
        both("failed_later"),
        f"**{row['verdict']}**" + (f": {row['why']}" if row["why"] else ""),
    ]


def failures(result: Result) -> list[str]:
    """Return the promises that were not kept; see `tools.bench_part.Part`."""
    return [f"{row['fault']}: {row['why']}" for row in result["rows"] if row["verdict"] == FAIL]

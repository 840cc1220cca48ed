"""Watches a release for a while after the switch, and takes it back when it goes bad."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from siterelease import host
from siterelease.host import ReleaseError
from siterelease.live import take_back, watched_release
from siterelease.releases import Releases, digest
from siterelease.settings import Settings

INTERVAL_SECONDS = 1.0
#: So long without a good answer, once there was one; longer than a worker's or the master's own recovery.
UNWELL_SECONDS = 15.0
#: Crashes of the service, and unplanned ends of workers, that are more than bad luck.
MOST_RESTARTS = 2
MOST_EXITS = 5
PLANNED_EXITS = frozenset({"order", "memory", "requests", "serving"})


@dataclass(frozen=True)
class Sample:
    """How the app was at one moment.

    Attributes:
        at: seconds on any clock that only goes forward.
        problem: empty for well.
        restarts: how often systemd restarted it by itself.
        exits: how many workers ended unplanned since its master started.
        changing: whether systemd is stopping or starting it.
    """

    at: float
    problem: str
    restarts: int
    exits: int
    changing: bool = False


def verdict(samples: Iterable[Sample], start_seconds: float) -> str:
    """Return why a release is bad, empty while it is not.

    Args:
        samples: since the switch, oldest first.
        start_seconds: until the first good answer.
    """
    every = list(samples)
    if not every:
        return ""
    first, last = every[0], every[-1]
    well = [one for one in every if not one.problem]
    if not well:
        return last.problem if last.at - first.at > start_seconds else ""
    # A restart that somebody asked for may take as long as a start. One after a crash is counted by systemd.
    planned = last.changing and last.restarts <= well[-1].restarts
    if last.at - well[-1].at >= (max(UNWELL_SECONDS, start_seconds) if planned else UNWELL_SECONDS):
        return f"not well for {last.at - well[-1].at:.0f} s: {last.problem}"
    if last.restarts - well[0].restarts >= MOST_RESTARTS:
        return f"its master died {last.restarts - well[0].restarts} times"
    # A master that was started anew counts from 0.
    exits = last.exits - (well[0].exits if last.exits >= well[0].exits else 0)
    return f"{exits} workers ended unplanned" if exits >= MOST_EXITS else ""


def is_over(samples: Sequence[Sample], seconds: float) -> bool:
    """Tell whether it was watched for long enough: since its first good answer, and not in the middle of a trouble."""
    first = next((one for one in samples if not one.problem), None)
    return first is not None and not samples[-1].problem and samples[-1].at - first.at >= seconds


def look(settings: Settings) -> Sample:
    """Ask the app and systemd once."""
    answer = host.ask(settings.operations, "/readyz", 5.0)
    state = host.show(settings.unit, "NRestarts", "ActiveState")
    restarts, changing = state.get("NRestarts", "0"), state.get("ActiveState", "").endswith("activating")
    exits = host.ask_json(settings.operations, "/memory").get("worker_exits", {})
    unplanned = sum(int(count) for reason, count in exits.items() if reason not in PLANNED_EXITS)
    problem = "" if answer.well else f"{settings.health_path}: {answer.problem or answer.field('problem')}"
    return Sample(time.monotonic(), problem, int(restarts or 0), unplanned, changing)


def watch(settings: Settings, releases: Releases, lock: Path) -> str:
    """Watch what the last switch left to be watched until that is over; say how it ended.

    After a reboot, or when its process died, it begins anew.
    """
    name, previous = watched_release(settings)
    if not name:
        return "there is nothing to watch"
    said = watch_one(settings, releases, name, previous, lock)
    settings.watched.unlink(missing_ok=True)
    return said


def bad_because(settings: Settings, releases: Releases, name: str, samples: Sequence[Sample]) -> str:
    """Return why a release has to go, empty while it may stay."""
    # One that is marked was being taken back when the power failed: how it looks now counts no more.
    if why := releases.why_bad(name):
        return why
    why = verdict(samples, settings.start_seconds)
    return f"after the switch: {why}" if why else ""


def watch_one(settings: Settings, releases: Releases, name: str, previous: str, lock: Path) -> str:
    """Watch until the time is over, another release is current, or this one had to be taken back; say which."""
    samples: list[Sample] = []
    while not is_over(samples, settings.watch_seconds):
        if releases.pointed("current") != name:
            return f"{name} is not current any more"
        samples.append(look(settings))
        if bad_because(settings, releases, name, samples):
            try:
                with host.lock(lock):
                    # Who had the lock may have restarted it, or switched to another one.
                    samples.append(look(settings))
                    why = bad_because(settings, releases, name, samples)
                    if why and releases.pointed("current") == name:
                        on_disk = digest(settings.inputs)
                        result = take_back(settings, releases, name, previous, why)
                        if digest(settings.inputs) != on_disk and (deploy := host.held(settings.deploy_lock)):
                            # A deploy that is at work has written settings of its own, and would go on without them.
                            settings.replaced.write_text(deploy, encoding="utf-8")
                        return f"{name} {result} ({why})"
            except ReleaseError:
                # Somebody changes the releases; what they make of it is to be seen.
                continue
        time.sleep(INTERVAL_SECONDS)
    releases.record(action="watch", release=name, previous=previous, who="sitekeeper", result="good", why="", seconds=0)
    return f"{name} is good"

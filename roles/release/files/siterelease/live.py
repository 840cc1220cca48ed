"""Lets a release go live, and takes it back when that was no good idea."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from siterelease import host, snapshot, trial
from siterelease.host import ReleaseError
from siterelease.releases import LIVE, Releases, now, replace
from siterelease.settings import Settings


@dataclass
class Outcome:
    """What a command did, for people and for programs."""

    changed: bool
    text: str
    facts: dict[str, Any] = field(default_factory=dict)
    restarts: list[dict[str, str]] = field(default_factory=list)


def serves(settings: Settings) -> bool:
    """Tell whether the app runs, or is about to."""
    return host.show(settings.unit, "ActiveState").get("ActiveState") in ("active", "activating", "reloading")


def go_live(settings: Settings, releases: Releases, entry: Mapping[str, str]) -> Outcome:
    """Let ``current`` lead to a release and restart the app behind its socket; take it back when it is not well.

    Args:
        settings: of the site.
        releases: its releases.
        entry: what is to be recorded of the deploy; it names the release and the one before.

    Raises:
        ReleaseError: it was taken back.
    """
    name, previous = entry["release"], entry["previous"]
    running = serves(settings)
    watched = running and previous and settings.watch_seconds > 0
    releases.write(name, LIVE, {"last": time.time(), "at": now()})
    releases.begin(entry)
    # Not before: a deploy that is refused leaves the watch of what serves.
    end_watch(settings)
    if watched:
        # Before the switch: when the power fails right after it, the next boot watches.
        replace(settings.watched, json.dumps({"release": name, "previous": previous}) + "\n")
    else:
        settings.watched.unlink(missing_ok=True)
    releases.point("current", name)
    return bring_up(settings, releases, name, previous, running=running)


def bring_up(settings: Settings, releases: Releases, name: str, previous: str, *, running: bool) -> Outcome:
    """Let the app run the current release, and do what comes after that; take it back when it is not well.

    Args:
        settings: of the site.
        releases: its releases.
        name: the current release.
        previous: what to go back to.
        running: whether the app runs.

    Raises:
        ReleaseError: it was taken back.
    """
    if not running:
        # The first deploy: units and socket are started by whoever installs them.
        return Outcome(True, f"{name} is current")
    try:
        if settings.watched.exists():
            start_watch(settings)
        restart(settings)
        for command in settings.after_switch:
            trial.run_task(settings, releases, name, command, f"release_after_switch `{command}`")
    except ReleaseError as error:
        result = take_back(settings, releases, name, previous, str(error))
        raise ReleaseError(f"release {name} {result}.\n{error}") from error
    return Outcome(True, f"{name} is current", restarts=restarts_for(settings, f"release {name}"))


def restarts_for(settings: Settings, why: str) -> list[dict[str, str]]:
    """Return what is restarted for another release to go live, and why."""
    return [{"unit": settings.unit, "action": "restart", "why": why}]


def restart(settings: Settings) -> None:
    """Restart the app and wait until it is well. Its socket stays: visitors wait meanwhile.

    Raises:
        ReleaseError: it is not well.
    """
    status, said = host.run(["systemctl", "restart", settings.unit], settings.start_seconds + 120)
    if status == 0:
        answer = host.wait_well(settings.operations, "/readyz", settings.start_seconds)
        if answer.well:
            return
        said = f"{settings.health_path}: {answer.problem or answer.field('problem')}"
    invocation = host.show(settings.unit, "InvocationID").get("InvocationID", "")
    raise ReleaseError(f"{settings.unit} is not well: {said.strip()}\n{host.last_lines(settings.unit, invocation)}")


def take_back(settings: Settings, releases: Releases, bad: str, good: str, why: str) -> str:
    """Mark a release bad and go back to the one before it; it stays on the disk for a look.

    Returns:
        What came of it, to be said after the name of the bad release.
    """
    first = why.strip().splitlines()[0]
    # The word that it is watched stays until all is done: a boot in the middle of this finishes it.
    end_watch(settings)
    releases.mark_bad(bad, first)
    start = time.monotonic()
    result, said = "no release to go back to", "is not well, and there is no release to go back to: it stays. Mend it"
    went = releases.complete(good) and not releases.is_bad(good)
    if went:
        result = "taken back"
        try:
            snapshot.put_back(settings, good)
        except OSError as error:
            # On a full disk: what is bad is worse than what is good with other settings.
            result = f"taken back, its settings not: {error}"
        releases.point("current", good)
        said = f"was {result}; {good} serves again"
        try:
            restart(settings)
        except ReleaseError as error:
            result = f"{result}, and {good} is not well: {str(error).splitlines()[0]}"
            said = f"was {result}. Look at it on the host: sudo sitectl status, sudo sitectl releases"
    settings.watched.unlink(missing_ok=True)
    seconds = round(time.monotonic() - start, 1)
    # Who called it says why as well, in the run's output or in the journal.
    with contextlib.suppress(OSError):
        releases.end(releases.begun(bad), result="taken back" if went else "not well", why=first)
        releases.record(
            action="take back", release=good, previous=bad, who="sitekeeper", result=result, why=first, seconds=seconds
        )
    return said


def cut_off(settings: Settings, releases: Releases) -> tuple[str, str]:
    """Return which release a take-back was to take back, and to which one, when it did not come to its end."""
    bad, good = watched_release(settings)
    if not bad:
        bad = releases.pointed("current")
        good = releases.begun(bad).get("previous", "")
    return (bad, good) if good and releases.is_bad(bad) and releases.pointed("current") in (bad, good) else ("", "")


def watched_release(settings: Settings) -> tuple[str, str]:
    """Return which release is to be watched, and what to go back to; both empty for none."""
    try:
        about = json.loads(settings.watched.read_text(encoding="utf-8"))
        return str(about["release"]), str(about["previous"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", ""


def start_watch(settings: Settings) -> None:
    """Watch the release from a unit of its own: neither the controller nor ssh has to stay, and a reboot may come.

    Raises:
        ReleaseError: systemd does not start it.
    """
    # Each deploy starts it anew, and newer versions of systemd (257, not yet 252; its pull request 30024) count that
    # over a daemon-reload: without this the sixth deploy within two minutes would not be watched. It fails where the
    # unit is forgotten, and the count with it.
    host.run(["systemctl", "reset-failed", settings.watch_unit], 30.0)
    status, said = host.run(["systemctl", "enable", "--now", "--quiet", "--no-reload", settings.watch_unit], 30.0)
    if status != 0:
        raise ReleaseError(f"the release cannot be watched: {said.strip()}")


def stop_watch(settings: Settings) -> None:
    """End a watch that is still at it; after the next boot none goes on."""
    end_watch(settings)
    settings.watched.unlink(missing_ok=True)


def end_watch(settings: Settings) -> None:
    """End the process that watches, unless this is it."""
    main = host.show(settings.watch_unit, "MainPID").get("MainPID", "0")
    if main not in ("0", "", str(os.getpid())):
        with contextlib.suppress(ReleaseError):
            host.systemctl("stop", settings.watch_unit)

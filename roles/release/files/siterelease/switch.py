"""Switches visitors to another release, and back when that was no good idea."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import time
from dataclasses import dataclass, field
from typing import Any

from siterelease import database, host, snapshot, trial
from siterelease.host import ReleaseError
from siterelease.releases import BAD, HELD, LIVE, Releases, now, replace
from siterelease.settings import Settings


@dataclass
class Outcome:
    """What a command did, for people and for programs."""

    changed: bool
    text: str
    facts: dict[str, Any] = field(default_factory=dict)
    restarts: list[dict[str, str]] = field(default_factory=list)


def switch(
    settings: Settings,
    releases: Releases,
    who: str,
    *,
    retry_bad: bool,
    check: bool,
    hold: bool = False,
    asked: str | None = None,
) -> Outcome:
    """Prove the release that was built last, and make it the current one; nothing when it is that already.

    Args:
        settings: of the site.
        releases: its releases.
        who: who asked for it, for the record.
        retry_bad: take a release that was marked bad once more.
        check: only say what would be done.
        hold: do all but the switch where a release serves: other hosts of the site come first. The next call goes on.
        asked: with ``check``, the release that would have been built; else it is the one that was.

    Raises:
        ReleaseError: the release is not sound; the one before serves, and has served all the time.
    """
    name, previous = asked or releases.pointed("next"), releases.pointed("current")
    if check and not releases.complete(name):
        return Outcome(True, f"{name or 'the first release'} would be proven, and become current")
    try:
        refuse(releases, name, previous, retry_bad=retry_bad)
    except ReleaseError as error:
        raise error if check else with_old_settings(settings, previous, error) from error
    proven = trial.is_proven(settings, releases, name)
    if name == previous and proven:
        kept = snapshot.has(settings, name)
        if not (check or kept):
            snapshot.take(settings, name)
        return Outcome(False, f"{name} is current", {"settled": kept})
    if check:
        return Outcome(name != previous, f"{name} would be proven, and become current in place of {previous or 'none'}")
    try:
        return change(settings, releases, name, previous, who, proven=proven, hold=hold)
    except OSError as error:
        # A full disk, most often. What fails after the switch is a note; before it, the settings are not to stay.
        if releases.pointed("current") != previous:
            raise
        raise with_old_settings(settings, previous, not_switched(name, previous, error)) from error


def change(
    settings: Settings, releases: Releases, name: str, previous: str, who: str, *, proven: bool, hold: bool
) -> Outcome:
    """Do what `switch` does once it is clear that there is something to do.

    Raises:
        ReleaseError: the release is not sound.
        OSError: something cannot be written.
    """
    start = time.monotonic()
    commit = releases.look(name).commit
    entry = {"action": "deploy", "release": name, "previous": previous, "who": who, "commit": commit}
    held = releases.note(name, HELD) if proven else {}
    waited = held.get("previous") == previous and name != previous
    try:
        # Once: the hooks of a release that waits for its turn have been run, and its backup is of the time before them.
        backup = str(held["backup"]) if waited else prepare(settings, releases, name, previous, proven=proven)
    except ReleaseError as error:
        seconds = round(time.monotonic() - start, 1)
        why = with_old_settings(settings, previous, not_switched(name, previous, error))
        with contextlib.suppress(OSError):
            releases.record(**entry, result="refused", why=str(error), seconds=seconds)
        raise why from error
    if name == previous:
        snapshot.take(settings, name)
        if not releases.note(name, LIVE):
            releases.write(name, LIVE, {"last": time.time(), "at": now()})
        return Outcome(False, f"{name} was proven with the settings of now")
    if hold and serves(settings):
        if not waited:
            releases.write(name, HELD, {"previous": previous, "backup": backup, "at": now()})
        return Outcome(not waited, f"{name} is proven and waits for its turn", {"pending": True, "release": name})
    stop_watch(settings)
    (releases.path(name) / HELD).unlink(missing_ok=True)
    snapshot.take(settings, name)
    outcome = go_live(settings, releases, name, previous)
    seconds = round(time.monotonic() - start, 1)
    releases.record(**entry, result="live", seconds=seconds, backup=backup)
    pruned = releases.prune(settings.keep, [previous])
    snapshot.prune(settings, {one.name for one in releases.all()})
    outcome.facts |= {"release": name, "previous": previous, "pruned": pruned, "backup": backup, "seconds": seconds}
    if outcome.restarts and settings.watch_seconds:
        outcome.facts["watched_seconds"] = settings.watch_seconds
    return outcome


def refuse(releases: Releases, name: str, previous: str, *, retry_bad: bool) -> None:
    """Refuse what is no release, or a bad one.

    Raises:
        ReleaseError: with what to do.
    """
    if not releases.complete(name):
        raise ReleaseError(f"there is no finished release to switch to in {releases.directory}; deploy one first")
    if releases.is_bad(name) and name != previous and not retry_bad:
        raise ReleaseError(
            f"release {name} was marked bad: {releases.look(name).why}. Change the code, or try it once more with "
            """-e '{"release_retry_bad": true}'"""
        )


def not_switched(name: str, previous: str, error: Exception) -> ReleaseError:
    """Return what to say of a release that did not become current, and what serves."""
    meanwhile = f"{previous} serves as before" if previous else "nothing serves yet"
    return ReleaseError(f"release {name} was not switched to; {meanwhile}.\n{error}")


def with_old_settings(settings: Settings, previous: str, error: ReleaseError) -> ReleaseError:
    """Put the settings of the running release back after a refusal; return the error, which says so then."""
    try:
        if not snapshot.put_back(settings, previous):
            return error
    except OSError as fault:
        stay = f"The settings of {previous} could not be put back: {fault}. Make room, then deploy again."
        return ReleaseError(f"{error}\n{stay}")
    return ReleaseError(f"{error}\nThe settings on the host are those of {previous} again.")


def prepare(settings: Settings, releases: Releases, name: str, previous: str, *, proven: bool) -> str:
    """Do all that comes before the switch: proof, backup, hooks; return the backup's name.

    Raises:
        ReleaseError: the release is not sound.
    """
    stop_watch(settings)
    (releases.path(name) / BAD).unlink(missing_ok=True)
    host.systemctl("daemon-reload", seconds=120)
    backup = ""
    if not proven:
        # Before the hooks: code that cannot even be imported must not change the database.
        trial.check_config(settings, releases, name)
    if name != previous:
        spare = backup_before(releases, previous)
        backup = database.save(settings, name, spare) if settings.save_database else ""
        for command in settings.before_switch:
            trial.run_task(settings, releases, name, command, f"release_before_switch `{command}`")
    if not proven:
        trial.prove(settings, releases, name)
    return backup


def serves(settings: Settings) -> bool:
    """Tell whether the app runs, or is about to."""
    return host.show(settings.unit, "ActiveState").get("ActiveState") in ("active", "activating", "reloading")


def go_live(settings: Settings, releases: Releases, name: str, previous: str) -> Outcome:
    """Let ``current`` lead to a release and restart the app behind its socket; take it back when it is not well.

    Raises:
        ReleaseError: it was taken back.
    """
    running = serves(settings)
    watched = running and previous and settings.watch_seconds > 0
    releases.write(name, LIVE, {"last": time.time(), "at": now()})
    if watched:
        # Before the switch: when the power fails right after it, the next boot watches.
        replace(settings.watched, json.dumps({"release": name, "previous": previous}) + "\n")
    releases.point("current", name)
    if not running:
        # The first deploy: units and socket are started by whoever installs them.
        return Outcome(True, f"{name} is current")
    restarts = [{"unit": settings.unit, "action": "restart", "why": f"release {name}"}]
    try:
        if watched:
            start_watch(settings)
        restart(settings)
        for command in settings.after_switch:
            trial.run_task(settings, releases, name, command, f"release_after_switch `{command}`")
    except ReleaseError as error:
        take_back(settings, releases, name, previous, str(error))
        back = f"taken back; {previous} serves again" if previous else "not well, and there is none to go back to"
        raise ReleaseError(f"release {name} was {back}.\n{error}") from error
    return Outcome(True, f"{name} is current", restarts=restarts)


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


def take_back(settings: Settings, releases: Releases, bad: str, good: str, why: str) -> None:
    """Mark a release bad and go back to the one before it; it stays on the disk for a look."""
    first = why.strip().splitlines()[0]
    releases.mark_bad(bad, first)
    stop_watch(settings)
    start = time.monotonic()
    result = "no release to go back to"
    if releases.complete(good) and not releases.is_bad(good):
        result = "taken back"
        try:
            snapshot.put_back(settings, good)
        except OSError as error:
            # On a full disk: what is bad is worse than what is good with other settings.
            result = f"taken back, its settings not: {error}"
        releases.point("current", good)
        try:
            restart(settings)
        except ReleaseError as error:
            result = f"{result}, and not well: {error}".splitlines()[0]
    seconds = round(time.monotonic() - start, 1)
    # Who called it says why as well, in the run's output or in the journal.
    with contextlib.suppress(OSError):
        releases.record(
            action="take back", release=good, previous=bad, who="sitekeeper", result=result, why=first, seconds=seconds
        )


def rollback(settings: Settings, releases: Releases, to: str, who: str, *, restore: bool, check: bool) -> Outcome:
    """Go back to a good release; the one that is left is marked bad.

    Args:
        settings: of the site.
        releases: its releases.
        to: which; empty for the good one that was live last.
        who: who asked for it.
        restore: put back the database as it was saved before the current release was deployed.
        check: only say what would be done.

    Raises:
        ReleaseError: there is none, or the one that was named may not be gone back to.
    """
    current, good = releases.pointed("current"), releases.good()
    choices = ", ".join(good) or "none"
    if to and to not in good:
        state = next((one.state for one in releases.all() if one.name == to), "unknown")
        raise ReleaseError(f"{to} cannot be gone back to: it is {state}. Good releases: {choices}")
    if not good:
        raise ReleaseError("there is no good release to go back to; deploy another one")
    target = to or good[0]
    backup = backup_before(releases, current)
    text = f"from {current} to {target}"
    lost: dict[str, int] = {}
    if restore and not backup:
        raise ReleaseError(f"no database was saved before {current}; leave rollback_database out")
    if backup:
        try:
            words, lost = forecast(settings, backup, restore=restore)
        except ReleaseError as error:
            if restore:
                raise
            # The code goes back whatever became of the database.
            words = f"the database stays as it is ({error})"
        text += f"; {words}"
    facts = {"release": target, "previous": current, "lost_rows": lost, "backup": backup}
    if check:
        return Outcome(True, text, facts)
    start = time.monotonic()
    stop_watch(settings)
    with contextlib.ExitStack() as held:
        if restore:
            # A visitor would start the app again through its socket, in the middle of it: the old code on the new data.
            held.enter_context(host.lock(settings.start_hold))
            facts["saved_first"] = put_database_back(settings, backup, current)
        releases.mark_bad(current, f"rolled back by {who}")
        releases.write(target, LIVE, {"last": time.time(), "at": now()})
        # It runs with the settings of now, whatever it had when it was live before.
        snapshot.take(settings, target)
        releases.point("current", target)
    entry = {"action": "rollback", "release": target, "previous": current, "who": who}
    try:
        restart(settings)
    except ReleaseError as error:
        seconds = round(time.monotonic() - start, 1)
        releases.record(**entry, result="not well", why=str(error), seconds=seconds)
        others = ", ".join(name for name in good if name != target) or "none"
        raise ReleaseError(f"{target} is current now, and {error}\nOther good releases: {others}") from error
    releases.record(**entry, result="live", why="", seconds=round(time.monotonic() - start, 1))
    restarts = [{"unit": settings.unit, "action": "restart", "why": f"rollback to {target}"}]
    return Outcome(True, text, facts, restarts)


def forecast(settings: Settings, backup: str, *, restore: bool) -> tuple[str, dict[str, int]]:
    """Say how far the database goes back, or would, and which rows that costs; return them by table too.

    Raises:
        ReleaseError: the backup is gone, or a database cannot be read.
    """
    lost = database.lost_rows(settings, backup)
    minutes = minutes_since(database.about_backup(settings, backup)["at"])
    rows = ", ".join(f"{count} of {table}" for table, count in sorted(lost.items())) or "none"
    verb = "goes back" if restore else "stays as it is; going back too (rollback_database=yes) would take it"
    return f"the database {verb} {minutes:.0f} min, rows lost by that: {rows}", lost


def put_database_back(settings: Settings, backup: str, current: str) -> str:
    """Stop the app and put a backup in the place of its database; return the backup of what was there.

    Raises:
        ReleaseError: it cannot be done; the app starts again on what it had.
    """
    try:
        host.systemctl("stop", settings.unit, seconds=120)
        saved = database.save(settings, f"before-rollback-{current}", spare=backup)
        database.restore(settings, backup)
    except ReleaseError:
        host.systemctl("start", "--no-block", settings.unit)
        raise
    return saved


def backup_before(releases: Releases, name: str) -> str:
    """Return the backup that was made when a release was deployed last, empty for none."""
    deploys = [one for one in releases.records() if one.get("action") == "deploy" and one.get("release") == name]
    return str(deploys[-1].get("backup") or "") if deploys else ""


def minutes_since(moment: str) -> float:
    """Return the minutes since a time of a record."""
    return (datetime.datetime.now(datetime.timezone.utc) - datetime.datetime.fromisoformat(moment)).total_seconds() / 60


def start_watch(settings: Settings) -> None:
    """Watch the release from a unit of its own: neither the controller nor ssh has to stay, and a reboot may come.

    Raises:
        ReleaseError: systemd does not start it.
    """
    status, said = host.run(["systemctl", "enable", "--now", "--quiet", "--no-reload", settings.watch_unit], 30.0)
    if status != 0:
        raise ReleaseError(f"the release cannot be watched: {said.strip()}")


def stop_watch(settings: Settings) -> None:
    """End a watch that is still at it, unless this is it; after the next boot none goes on."""
    settings.watched.unlink(missing_ok=True)
    main = host.show(settings.watch_unit, "MainPID").get("MainPID", "0")
    if main not in ("0", "", str(os.getpid())):
        with contextlib.suppress(ReleaseError):
            host.systemctl("stop", settings.watch_unit)

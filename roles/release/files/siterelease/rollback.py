"""Goes back to a good release by hand, with the database when that is asked for."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Mapping
from typing import Any

from siterelease import database, host, snapshot
from siterelease.host import ReleaseError
from siterelease.live import Outcome, restart, restarts_for, stop_watch
from siterelease.releases import CUT_OFF, LIVE, Releases, now
from siterelease.settings import Settings


def rollback(settings: Settings, releases: Releases, to: str, who: str, *, restore: bool, check: bool) -> Outcome:
    """Go back to a good release; the one that is left is marked bad. One that was cut off is finished first.

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
    current = releases.pointed("current")
    owed = releases.begun(current)
    if owed.get("action") == "rollback" and to in ("", current):
        text = f"from {owed['previous']} to {current}, which had been cut off; the database stays as it left that"
        facts: dict[str, Any] = {"release": current, "previous": owed["previous"], "lost_rows": {}, "backup": ""}
        restarts = restarts_for(settings, f"rollback to {current}") if check else arrive(settings, releases, owed)
        return Outcome(True, text, facts, restarts)
    if not check:
        mark_left(releases, owed)
    good = releases.good()
    choices = ", ".join(good) or "none"
    if to and to not in good:
        state = next((one.state for one in releases.all() if one.name == to), "unknown")
        raise ReleaseError(f"{to} cannot be gone back to: it is {state}. Good releases: {choices}")
    if not good:
        raise ReleaseError("there is no good release to go back to; deploy another one")
    target = to or good[0]
    backup = releases.backup_before(current)
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
        return Outcome(True, text, facts, restarts_for(settings, f"rollback to {target}"))
    start = time.monotonic()
    # What a full disk does not bear comes before anything is stopped.
    releases.write(target, LIVE, {"last": time.time(), "at": now()})
    # It runs with the settings of now, whatever it had when it was live before.
    snapshot.take(settings, target)
    if owed:
        releases.end(owed, result="live", why=CUT_OFF, seconds=0)
    entry = {"action": "rollback", "release": target, "previous": current, "who": who}
    releases.begin(entry)
    stop_watch(settings)
    with contextlib.ExitStack() as held:
        if restore:
            # A visitor would start the app again through its socket, in the middle of it: the old code on the new data.
            held.enter_context(host.lock(settings.start_hold))
            facts["saved_first"] = put_database_back(settings, backup, current)
        releases.point("current", target)
    return Outcome(True, text, facts, arrive(settings, releases, entry, start))


def mark_left(releases: Releases, entry: Mapping[str, str]) -> None:
    """Mark the release that a rollback leaves bad; nothing when the entry is not that of a rollback, or empty."""
    if entry.get("action") == "rollback":
        releases.mark_bad(entry["previous"], f"rolled back by {entry['who']}")


def arrive(
    settings: Settings, releases: Releases, entry: Mapping[str, str], start: float | None = None
) -> list[dict[str, str]]:
    """Do what comes behind the switch of a rollback: the mark on what is left, the restart, the record.

    Args:
        settings: of the site.
        releases: its releases.
        entry: what is to be recorded of it, as it was noted before the switch.
        start: when it began, on the monotonic clock; None for one that was cut off.

    Returns:
        What was restarted, and why.

    Raises:
        ReleaseError: the release is not well.
    """
    start = time.monotonic() if start is None else start
    target = entry["release"]
    # Not before the switch: if it is marked while it serves, the next release that fails has nothing to go back to.
    mark_left(releases, entry)
    try:
        restart(settings)
    except ReleaseError as error:
        releases.end(entry, result="not well", why=str(error), seconds=round(time.monotonic() - start, 1))
        others = ", ".join(releases.good()) or "none"
        raise ReleaseError(f"{target} is current now, and {error}\nOther good releases: {others}") from error
    releases.end(entry, result="live", why="", seconds=round(time.monotonic() - start, 1))
    return restarts_for(settings, f"rollback to {target}")


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
        ReleaseError, OSError: it cannot be done; the app starts again on what it had.
    """
    try:
        host.systemctl("stop", settings.unit, seconds=120)
        saved = database.save(settings, f"before-rollback-{current}", spare=backup)
        database.restore(settings, backup)
    except (ReleaseError, OSError):
        host.systemctl("start", "--no-block", settings.unit)
        raise
    return saved


def minutes_since(moment: str) -> float:
    """Return the minutes since a time of a record."""
    return (datetime.datetime.now(datetime.timezone.utc) - datetime.datetime.fromisoformat(moment)).total_seconds() / 60

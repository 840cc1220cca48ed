"""Switches visitors to the release that was built last, once it has proven itself."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping

from siterelease import database, host, snapshot, trial
from siterelease.host import ReleaseError
from siterelease.live import Outcome, bring_up, cut_off, go_live, restarts_for, serves, take_back
from siterelease.releases import BAD, CUT_OFF, HELD, LIVE, Releases, now
from siterelease.rollback import arrive, mark_left
from siterelease.settings import Settings


def switch(
    settings: Settings,
    releases: Releases,
    who: str,
    *,
    retry_bad: bool,
    check: bool,
    hold: bool = False,
    turn: bool = False,
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
        turn: it is the turn of a release that was held, and nobody has brought settings since.
        asked: with ``check``, the release that would have been built; else it is the one that was.

    Raises:
        ReleaseError: the release is not sound; the one before serves, and has served all the time.
    """
    name, previous = asked or releases.pointed("next"), releases.pointed("current")
    if check and not releases.complete(name):
        return foretold(settings, name, previous)
    finish_take_back(settings, releases, check=check)
    try:
        if not check:
            mark_left(releases, releases.begun(previous))
            refuse_replaced(settings)
        refuse(releases, name, previous, retry_bad=retry_bad)
        if turn and not check and name != previous:
            bring_held(settings, releases, name, previous)
    except ReleaseError as error:
        raise error if check else with_old_settings(settings, previous, error) from error
    # A mark on what is current is from a run that was cut off: it shows once more whether it is sound.
    proven = trial.is_proven(settings, releases, name) and not (name == previous and releases.is_bad(name))
    owed = releases.begun(name) if name == previous else {}
    settled = name == previous and proven and not owed
    if check and not settled:
        return foretold(settings, name, previous, owed=bool(owed))
    if owed and proven:
        return finish(settings, releases, owed, hold=hold)
    if settled:
        kept = snapshot.has(settings, name)
        if not (check or kept):
            snapshot.take(settings, name)
        return Outcome(False, f"{name} is current", {"settled": kept})
    try:
        return change(settings, releases, name, previous, who, proven=proven, hold=hold)
    except OSError as error:
        # A full disk, most often. What fails after the switch is a note; before it, the settings are not to stay.
        if releases.pointed("current") != previous:
            raise
        raise with_old_settings(settings, previous, not_switched(name, previous, error)) from error


def foretold(settings: Settings, name: str, previous: str, *, owed: bool = False) -> Outcome:
    """Return what a dry run says of a switch, and of what it would restart.

    Args:
        settings: of the site.
        name: the release; empty for one that nobody has built yet.
        previous: the one that is current; empty for none.
        owed: whether its switch was cut off, and its end is still to be done.
    """
    if name == previous and name and not owed:
        return Outcome(False, f"{name} is current, and would be proven once more")
    text = f"{name or 'the first release'} would be proven, and become current"
    if previous:
        text += f" in place of {previous}"
    if owed:
        text = f"{name} is current, and what its switch has left undone would be done"
    return Outcome(True, text, restarts=restarts_for(settings, f"release {name}") if serves(settings) else [])


def change(
    settings: Settings, releases: Releases, name: str, previous: str, who: str, *, proven: bool, hold: bool
) -> Outcome:
    """Do what `switch` does once it is clear that there is something to do.

    Raises:
        ReleaseError: the release is not sound.
        OSError: something cannot be written.
    """
    start = time.monotonic()
    entry = {
        "action": "deploy",
        "release": name,
        "previous": previous,
        "who": who,
        "commit": releases.look(name).commit,
        "backup": "",
    }
    held = releases.note(name, HELD) if proven else {}
    waited = held.get("previous") == previous and name != previous
    try:
        if waited:
            # Once: the hooks of a release that waits for its turn have been run, its backup is of the time before them.
            entry["backup"] = str(held["backup"])
        else:
            prepare(settings, releases, entry, proven=proven)
    except ReleaseError as error:
        seconds = round(time.monotonic() - start, 1)
        why = with_old_settings(settings, previous, not_switched(name, previous, error))
        # Not as its backup: the release that serves may be the same, and went live with another one.
        entry["saved"] = entry.pop("backup")
        with contextlib.suppress(OSError):
            releases.record(**entry, result="refused", why=str(error), seconds=seconds)
        raise why from error
    if name == previous:
        (releases.path(name) / BAD).unlink(missing_ok=True)
        snapshot.take(settings, name)
        if not releases.note(name, LIVE):
            releases.write(name, LIVE, {"last": time.time(), "at": now()})
        if owed := releases.begun(name):
            return finish(settings, releases, owed, hold=hold)
        return Outcome(False, f"{name} was proven with the settings of now")
    snapshot.take(settings, name)
    if hold and serves(settings):
        if not waited:
            releases.write(name, HELD, {"previous": previous, "backup": entry["backup"], "at": now()})
        # Another host may end the roll: what serves here must not start with settings that it was never tried with.
        snapshot.put_back(settings, previous)
        return Outcome(not waited, f"{name} is proven and waits for its turn", {"pending": True, "release": name})
    (releases.path(name) / HELD).unlink(missing_ok=True)
    if cut := releases.begun(previous):
        releases.end(cut, result="live", why=CUT_OFF, seconds=0)
    return done(settings, releases, entry, go_live(settings, releases, entry), start)


def finish(settings: Settings, releases: Releases, entry: Mapping[str, str], *, hold: bool) -> Outcome:
    """Do what a switch that was cut off has left undone: the app's restart, the hooks after it, the record.

    Raises:
        ReleaseError: it was taken back.
    """
    start, name, running = time.monotonic(), entry["release"], serves(settings)
    if hold and running:
        return Outcome(False, f"{name} is current, and waits for its turn", {"pending": True, "release": name})
    if entry["action"] == "rollback":
        return Outcome(True, f"{name} is current", restarts=arrive(settings, releases, entry))
    return done(
        settings, releases, entry, bring_up(settings, releases, name, entry["previous"], running=running), start
    )


def done(settings: Settings, releases: Releases, entry: Mapping[str, str], outcome: Outcome, start: float) -> Outcome:
    """Record a switch that began at a moment, delete what is too old, and complete what is said of it."""
    seconds = round(time.monotonic() - start, 1)
    releases.end(entry, result="live", seconds=seconds)
    pruned = releases.prune(settings.keep, [entry["previous"]])
    snapshot.prune(settings, {one.name for one in releases.all()})
    about = {key: entry[key] for key in ("release", "previous", "backup")}
    absent = database.missing(settings) if settings.save_database and entry["previous"] else []
    if absent:
        outcome.text += f"; not saved, for it is not in {settings.data_dir}: {', '.join(absent)} (release_databases)"
    outcome.facts |= {**about, "pruned": pruned, "seconds": seconds}
    if outcome.restarts and settings.watch_seconds:
        outcome.facts["watched_seconds"] = settings.watch_seconds
    return outcome


def finish_take_back(settings: Settings, releases: Releases, *, check: bool) -> None:
    """Finish a take-back that was cut off.

    Raises:
        ReleaseError: one was. What serves has the settings that it had, and those of this deploy are gone by that.
    """
    bad, good = cut_off(settings, releases)
    if bad:
        why = releases.why_bad(bad)
        result = f"has to be taken back to {good}" if check else take_back(settings, releases, bad, good, why)
        raise ReleaseError(f"release {bad} was marked bad: {why}. It {result}. Run the deploy again after that.")


def refuse(releases: Releases, name: str, previous: str, *, retry_bad: bool) -> None:
    """Refuse what is no release, or a bad one.

    Raises:
        ReleaseError: with what to do.
    """
    if not releases.complete(name):
        raise ReleaseError(f"there is no finished release to switch to in {releases.directory}; deploy one first")
    if releases.is_bad(name) and name != previous and not retry_bad:
        raise ReleaseError(
            f"release {name} was marked bad: {releases.why_bad(name)}. Change the code, or try it once more with "
            """-e '{"release_retry_bad": true}'"""
        )


def refuse_replaced(settings: Settings) -> None:
    """Refuse a deploy whose settings a take-back has replaced: the release would go live with those of another one.

    Raises:
        ReleaseError: with what to do.
    """
    try:
        whose = settings.replaced.read_text(encoding="utf-8")
    except OSError:
        return
    settings.replaced.unlink()
    # Any other deploy has written its settings since.
    if whose == host.held(settings.deploy_lock):
        raise ReleaseError(
            "the running release was taken back, and the settings of this deploy were replaced meanwhile. Run it again"
        )


def bring_held(settings: Settings, releases: Releases, name: str, previous: str) -> None:
    """Put the settings of a release on the disk that was held, where it was.

    Raises:
        ReleaseError: it was proven beside another release than the one that serves now, or there is no room.
    """
    held = releases.note(name, HELD)
    if held and held.get("previous") != previous:
        raise ReleaseError(f"{previous} serves now, and no longer {held.get('previous')}: run the deploy again")
    try:
        if held:
            snapshot.put_back(settings, name, whole=True)
    except OSError as error:
        raise ReleaseError(
            f"the settings of {name} cannot be written: {error}. Make room, then deploy again"
        ) from error


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


def prepare(settings: Settings, releases: Releases, entry: dict[str, str], *, proven: bool) -> None:
    """Do all that comes before the switch: proof, backup, hooks; the backup's name is put into the entry.

    Raises:
        ReleaseError: the release is not sound.
    """
    name, previous = entry["release"], entry["previous"]
    if name != previous:
        (releases.path(name) / BAD).unlink(missing_ok=True)
    host.systemctl("daemon-reload", seconds=120)
    if not proven:
        # Before the hooks: code that cannot even be imported must not change the database.
        trial.check_config(settings, releases, name)
    if name != previous:
        spare = releases.backup_before(previous)
        entry["backup"] = database.save(settings, name, spare) if settings.save_database else ""
        for command in settings.before_switch:
            trial.run_task(settings, releases, name, command, f"release_before_switch `{command}`")
    if not proven:
        trial.prove(settings, releases, name)

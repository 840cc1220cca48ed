"""``release NAME COMMAND``: the releases of one site on this host."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from siterelease import host
from siterelease.host import ReleaseError
from siterelease.live import Outcome
from siterelease.releases import Releases
from siterelease.rollback import rollback
from siterelease.settings import Settings, load
from siterelease.switch import switch
from siterelease.watch import watch

SHOWN_RECORDS = 15


def parser() -> argparse.ArgumentParser:
    """Return the grammar of the command line."""
    top = argparse.ArgumentParser(prog="release", description=__doc__)
    top.add_argument("--config", type=Path, help="the settings file (default /etc/NAME/release.json)")
    top.add_argument("name", help="the site")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="show the releases and what was done with them")
    listing.add_argument("--json", action="store_true", help="for programs")
    change = commands.add_parser("switch", help="prove the release that was built last and make it current")
    change.add_argument("--retry-bad", action="store_true", help="take one that was marked bad once more")
    change.add_argument("--asked", metavar="ID", help="with --check: speak of a release that is still to be built")
    change.add_argument(
        "--hold", action="store_true", help="prove it; where a release serves, leave the switch for later"
    )
    change.add_argument("--turn", action="store_true", help="go on with what --hold has left, and with its settings")
    back = commands.add_parser("rollback", help="go back to a good release")
    back.add_argument("to", nargs="?", default="", metavar="ID", help="which (default: the one that was live last)")
    back.add_argument("--database", action="store_true", help="restore the database saved before the current release")
    for one in (change, back):
        one.add_argument("--who", default=os.environ.get("SUDO_USER", "root"), help="for the record")
        one.add_argument("--locked", action="store_true", help="the caller holds the deploy lock")
        one.add_argument("--check", action="store_true", help="only say what would be done")
        one.add_argument("--json", action="store_true", help="for programs")
    commands.add_parser("watch", help="watch what the last switch left to be watched")
    return top


def main(argv: Sequence[str]) -> int:
    """Run one command; return 0, or 1 for a refusal."""
    arguments = parser().parse_args(argv)
    settings = None
    try:
        settings = load(arguments.config or Path("/etc") / arguments.name / "release.json")
        outcome = run(settings, arguments)
    except (ReleaseError, OSError, KeyError, ValueError) as error:
        said = str(error) if isinstance(error, ReleaseError) else f"{type(error).__name__}: {error}"
        if getattr(arguments, "json", False):
            current = Releases(settings.root).pointed("current") if settings else ""
            print(json.dumps({"failed": True, "msg": said, "current": current}))
        else:
            print(f"release: {said}", file=sys.stderr)
        return 1
    if getattr(arguments, "json", False):
        facts = {"changed": outcome.changed, "text": outcome.text, "restarts": outcome.restarts, **outcome.facts}
        facts["current"] = Releases(settings.root).pointed("current")
        print(json.dumps(facts))
    else:
        print(outcome.text)
    return 0


def run(settings: Settings, arguments: argparse.Namespace) -> Outcome:
    """Run one command; the arguments are those of the command line.

    Raises:
        ReleaseError: it was refused or did not succeed.
    """
    releases = Releases(settings.root)
    lock = settings.run / "sitekeeper" / f"{settings.name}.switch.lock"
    if arguments.command == "list":
        return listed(settings, releases)
    if arguments.command == "watch":
        return Outcome(False, watch(settings, releases, lock))
    with contextlib.ExitStack() as locks:
        if not (arguments.locked or arguments.check):
            locks.enter_context(host.lock(settings.deploy_lock, arguments.who))
        # Who has the deploy lock and meets another switch all the same meets one whose run was killed.
        left_behind = host.LEFT_BEHIND_SECONDS if arguments.locked and not arguments.check else None
        locks.enter_context(host.lock(lock, arguments.who, left_behind))
        if arguments.command == "switch":
            return switch(
                settings,
                releases,
                arguments.who,
                retry_bad=arguments.retry_bad,
                check=arguments.check,
                hold=arguments.hold,
                # By hand it is always the turn: no run has brought settings.
                turn=arguments.turn or not arguments.locked,
                asked=arguments.asked if arguments.check else None,
            )
        return rollback(
            settings, releases, arguments.to, arguments.who, restore=arguments.database, check=arguments.check
        )


def listed(settings: Settings, releases: Releases) -> Outcome:
    """Show releases and records."""
    every, records = releases.all(), releases.records()[-SHOWN_RECORDS:]
    rows = [("release", "state", "built", "commit", "why")]
    rows += [(one.name, one.state, one.created, short(one.commit), one.why) for one in every]
    done: list[Sequence[str]] = [("at", "action", "release", "result", "seconds", "who", "why")]
    for one in reversed(records):
        keys = ("at", "action", "release", "result", "seconds", "who", "why")
        done.append(tuple(first_line(one.get(key)) for key in keys))
    watching = host.show(settings.watch_unit, "ActiveState").get("ActiveState") == "active"
    note = f"\n\n{releases.pointed('current')} is being watched" if watching else ""
    facts: dict[str, Any] = {
        "releases": [vars(one) for one in every],
        "records": records,
        "watched": watching,
        "backups": sorted(path.stem for path in settings.backups.glob("*.json")),
    }
    return Outcome(False, f"{table(rows)}\n\n{table(done)}{note}", facts)


def short(commit: str) -> str:
    """Return a commit for a table: what is needed of its hash, and whether the code was changed."""
    digits, dash, mark = commit.partition("-")
    return f"{digits[:12]}{dash}{mark}"


def first_line(value: object) -> str:
    """Return the first line of a value, for a table."""
    return (str(value or "").splitlines() or [""])[0]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as columns of equal width."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The command line of sitectl."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from sitectl import codes, store
from sitectl.check import run_check, run_restart
from sitectl.host import Host
from sitectl.settings import Settings, SettingsError, load, read
from sitectl.status import run_status

EXIT_CODES = """exit codes:
  0 healthy or done (also: another check is running)   1 not healthy
  2 wrong usage or settings   3 was down, restarted, healthy again
  75 busy, try again   77 needs root: use sudo"""


def parser() -> argparse.ArgumentParser:
    """Return the command line's grammar."""
    top = argparse.ArgumentParser(
        prog="sitectl",
        description="Look after a web application on this host.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--site", metavar="NAME", help="which site; not needed when the host has one")
    top.add_argument("--root", metavar="DIR", type=Path, default=Path("/"), help="look for all files below DIR")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("check", help="check the app once and restart it if it is due; cron runs this each minute")
    status = commands.add_parser("status", help="show how the site is")
    status.add_argument("--json", action="store_true", help="for programs")
    commands.add_parser("restart", help="restart the app and wait until it answers")
    logs = commands.add_parser("logs", help="show what the app and the monitor wrote")
    logs.add_argument("-n", "--lines", type=_count, default=100, help="how many lines (default 100)")
    hold = commands.add_parser("hold", help="let the monitor restart nothing for a while")
    hold.add_argument("seconds", type=_hold_seconds, help=f"how long, at most {store.MAX_HOLD_SECONDS}")
    hold.add_argument("--reason", required=True, help="shown in the journal and in the status")
    commands.add_parser("release-hold", help="end the hold")
    validate = commands.add_parser("validate", help="check a settings file without using it")
    validate.add_argument("file", type=Path)
    return top


def _count(text: str) -> int:
    """Return a positive whole number; argparse turns ValueError into a message."""
    if (value := int(text)) < 1:
        raise ValueError
    return value


def _hold_seconds(text: str) -> float:
    """Return the length of a hold in seconds."""
    if not 0 < (value := float(text)) <= store.MAX_HOLD_SECONDS:
        raise argparse.ArgumentTypeError(f"must be more than 0 and at most {store.MAX_HOLD_SECONDS} seconds")
    return value


def main(argv: list[str]) -> int:
    """Run one command; return the exit code (see codes.py)."""
    arguments = parser().parse_args(argv)
    host = Host(arguments.root.absolute())
    try:
        if arguments.command == "validate":
            read(arguments.file)
            return codes.HEALTHY
        return _run(host, load(host.settings_dir, arguments.site), arguments)
    except SettingsError as error:
        print(f"sitectl: {error}", file=sys.stderr)
        return codes.USAGE
    except PermissionError as error:
        print(f"sitectl: {error}. This command needs root: use sudo.", file=sys.stderr)
        return codes.NOT_PERMITTED


def _run(host: Host, settings: Settings, arguments: argparse.Namespace) -> int:
    """Run a command that is about one site."""
    hold_file = host.hold_file(settings.name)
    if arguments.command == "check":
        return run_check(host, settings)
    if arguments.command == "status":
        return run_status(host, settings, arguments.json)
    if arguments.command == "restart":
        return run_restart(host, settings)
    if arguments.command == "hold":
        store.write_hold(hold_file, arguments.seconds, arguments.reason, host.now())
        return codes.HEALTHY
    if arguments.command == "release-hold":
        if not store.release_hold(hold_file):
            print(f"There was no hold on {settings.name}.", file=sys.stderr)
        return codes.HEALTHY
    return _show_logs(settings, arguments.lines)


def _show_logs(settings: Settings, lines: int) -> int:
    """Become journalctl; returns only when there is none."""
    # What the service wrote, what systemd wrote about it, what the monitor wrote; `+` means "or"
    # (journalctl(1)), which the options -u and -t cannot express.
    matches = [
        f"_SYSTEMD_UNIT={settings.unit}",
        f"UNIT={settings.unit}",
        f"SYSLOG_IDENTIFIER={settings.identifier}",
    ]
    argv = ["journalctl", f"--lines={lines}", *" + ".join(matches).split(" ")]
    try:
        os.execvp(argv[0], argv)
    except FileNotFoundError:
        print("sitectl: there is no journalctl on this host", file=sys.stderr)
    return codes.UNHEALTHY


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

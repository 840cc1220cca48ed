"""The command line of sitectl."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from sitectl import codes, store
from sitectl.check import run_check, run_restart
from sitectl.host import Host
from sitectl.maintenance import add_parser, run_maintenance
from sitectl.operations import run_memory, run_metrics
from sitectl.settings import Settings, SettingsError, load, read
from sitectl.status import run_status

RELEASE_PROGRAM = "/usr/local/lib/sitekeeper/release"
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
    memory = commands.add_parser("memory", help="show the memory of each worker, and why workers ended")
    memory.add_argument("--json", action="store_true", help="for programs")
    commands.add_parser("metrics", help="print the app's metrics as Prometheus text")
    commands.add_parser("restart", help="restart the app and wait until it answers")
    logs = commands.add_parser("logs", help="show what the app and the monitor wrote")
    logs.add_argument("-n", "--lines", type=_count, default=100, help="how many lines (default 100)")
    hold = commands.add_parser("hold", help="let the monitor restart nothing for a while")
    hold.add_argument("seconds", type=_hold_seconds, help=f"how long, at most {store.MAX_HOLD_SECONDS}")
    hold.add_argument("--reason", required=True, help="shown in the journal and in the status")
    commands.add_parser("release-hold", help="end the hold")
    releases = commands.add_parser("releases", help="show the releases and what was done with them")
    releases.add_argument("--json", action="store_true", help="for programs")
    back = commands.add_parser("rollback", help="go back to a good release")
    back.add_argument("to", nargs="?", metavar="ID", help="which (default: the good one that was live last)")
    back.add_argument("--database", action="store_true", help="restore the database saved before the current release")
    back.add_argument("--check", action="store_true", help="only say what would be done")
    add_parser(commands)
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
    commands: dict[str, Callable[[], int]] = {
        "check": lambda: run_check(host, settings),
        "status": lambda: run_status(host, settings, arguments.json),
        "memory": lambda: run_memory(host, settings, arguments.json),
        "metrics": lambda: run_metrics(host, settings),
        "restart": lambda: run_restart(host, settings),
        "logs": lambda: _show_logs(settings, arguments.lines),
        "releases": lambda: _run_release(settings, ["list", *(["--json"] if arguments.json else [])]),
        "rollback": lambda: _run_release(settings, _rollback_words(arguments)),
        "hold": lambda: _hold(host, settings, arguments.seconds, arguments.reason),
        "release-hold": lambda: _release_hold(host, settings),
        "maintenance": lambda: run_maintenance(host, settings, arguments),
    }
    return commands[arguments.command]()


def _hold(host: Host, settings: Settings, seconds: float, reason: str) -> int:
    """Let the monitor restart nothing for a while."""
    store.write_hold(host.hold_file(settings.name), seconds, reason, host.now())
    return codes.HEALTHY


def _release_hold(host: Host, settings: Settings) -> int:
    """End the hold."""
    if not store.remove(host.hold_file(settings.name)):
        print(f"There was no hold on {settings.name}.", file=sys.stderr)
    return codes.HEALTHY


def _rollback_words(arguments: argparse.Namespace) -> list[str]:
    """Return the command line of a rollback."""
    words = ["rollback", *(["--database"] if arguments.database else []), *(["--check"] if arguments.check else [])]
    return [*words, arguments.to] if arguments.to else words


def _run_release(settings: Settings, words: list[str]) -> int:
    """Become the program of the role release; returns only when there is none."""
    try:
        os.execv(RELEASE_PROGRAM, [RELEASE_PROGRAM, settings.name, *words])
    except FileNotFoundError:
        print(f"sitectl: there is no {RELEASE_PROGRAM} on this host: deploy first", file=sys.stderr)
    return codes.UNHEALTHY


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

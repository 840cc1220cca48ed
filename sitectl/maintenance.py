"""`sitectl maintenance`: visitors get a page in the app's place for a while, and the app runs on."""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sitectl import codes, report, store
from sitectl.decide import worth_asking
from sitectl.host import Deadline, Host
from sitectl.probe import Answer, ask
from sitectl.settings import Settings, SettingsError
from sitectl.unit import show

MAX_MINUTES = 24 * 60
"""The app ignores a longer one: a maintenance that is forgotten must end."""
DEFAULT_MINUTES = 30
DEFAULT_MESSAGE = "We are working on the site."
MAX_MESSAGE = 500
NOTICED_SECONDS = 1.2
"""Every worker looks at the file once a second: one that has just looked lets visitors in until then."""
PROOF_SECONDS = 10.0
"""The first request may find a worker that starts."""
PROOF_PATH = "/sitectl-maintenance"
"""No page of any app: only the answer's status counts."""


@dataclass(frozen=True)
class Notice:
    """A maintenance: until when, in seconds since 1970, and what visitors are told."""

    until: float
    message: str

    @property
    def moment(self) -> str:
        """When it ends, for people and programs."""
        return datetime.fromtimestamp(self.until, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def add_parser(commands: Any) -> None:
    """Add the subcommand to the command line's grammar."""
    words = "show visitors a page in the app's place for a while, or end that"
    switch = commands.add_parser("maintenance", help=words).add_subparsers(dest="switch", required=True)
    on = switch.add_parser("on", help="from now on; replaces a maintenance that is on")
    on.add_argument("--minutes", type=_minutes, default=DEFAULT_MINUTES, help="how long (default 30, at most a day)")
    on.add_argument("--message", type=_message, default=DEFAULT_MESSAGE, help="what visitors are told")
    switch.add_parser("off", help="let visitors in again")


def _minutes(text: str) -> float:
    """Return how long, in minutes."""
    if not 0 < (value := float(text)) <= MAX_MINUTES:
        raise argparse.ArgumentTypeError(f"must be more than 0 and at most {MAX_MINUTES} minutes")
    return value


def _message(text: str) -> str:
    """Return what visitors are told: a line that can be read."""
    if not text.strip() or len(text) > MAX_MESSAGE or not text.isprintable():
        raise argparse.ArgumentTypeError(f"must be one line of at most {MAX_MESSAGE} characters")
    return text


def read(host: Host, settings: Settings) -> Notice | None:
    """Return the maintenance that is on, as the app sees it, or None; also where this user may not look."""
    if settings.maintenance_file is None:
        return None
    try:
        raw = json.loads(host.under_root(settings.maintenance_file).read_text(encoding="utf-8"))
        found = Notice(float(raw["until"]), str(raw["message"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if 0 < found.until - time.time() <= MAX_MINUTES * 60 else None


def run_maintenance(host: Host, settings: Settings, arguments: argparse.Namespace) -> int:
    """Begin or end a maintenance; return the exit code. Raises SettingsError, PermissionError."""
    if settings.maintenance_file is None:
        raise SettingsError(f"{settings.name} has no maintenance_file in its settings: run the monitor playbook")
    path = host.under_root(settings.maintenance_file)
    journal = report.Journal(host, settings.identifier)
    if arguments.switch == "off":
        if store.remove(path):
            journal.write(f"maintenance=off site={settings.name}", report.NOTICE)
        else:
            print(f"{settings.name} was not in maintenance.")
        return codes.HEALTHY
    return _begin(host, settings, path, journal, Notice(time.time() + arguments.minutes * 60, arguments.message))


def _begin(host: Host, settings: Settings, path: Path, journal: report.Journal, notice: Notice) -> int:
    """Write the file, look whether visitors really get the page, and return when no worker lets them in any more."""
    if not path.parent.is_dir():
        raise SettingsError(f"there is no directory {path.parent}: run the deploy playbook against this host first")
    store.replace(path, json.dumps({"until": notice.until, "message": notice.message}), lasting=True)
    noticed = Deadline(NOTICED_SECONDS)
    journal.write(f"maintenance=on site={settings.name} until={notice.moment}", report.NOTICE)
    problem = _problem(host, settings, notice)
    if problem:
        journal.write(f"maintenance=on site={settings.name} but {problem}", report.WARNING)
    # The answer came from one worker; the operator may begin a migration as soon as this returns.
    time.sleep(noticed.left())
    return codes.UNHEALTHY if problem else codes.HEALTHY


def _problem(host: Host, settings: Settings, notice: Notice) -> str:
    """Return why visitors do not get the page, or nothing when they do."""
    if not worth_asking(show(host, settings.unit)):
        return f"{settings.unit} is stopped: nobody shows the page"
    url = urlsplit(settings.url)._replace(path=PROOF_PATH, query="").geturl()
    deadline = Deadline(min(PROOF_SECONDS, math.ceil(notice.until - time.time())))
    answer: Answer | None = None
    while deadline.left() > 0:
        answer = ask(url, max(deadline.left(settings.timeout_seconds), 0.1), settings.host_header)
        if answer.status == 503:
            return ""
        time.sleep(0.2)
    told = answer.problem or f"answered {answer.status}" if answer else "was not asked"
    return f"the app {told} in place of the page: run the deploy playbook if it never had it"

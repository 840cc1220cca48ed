"""The settings file of one application: strict, so that a typing error is found when it is installed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# What a value must be, in words and as a test.
Rule = tuple[str, Callable[[Any], bool]]


class SettingsError(Exception):
    """The settings cannot be used; the message says which key of which file, and what is allowed."""


@dataclass(frozen=True)
class Settings:
    """What `sitectl` knows about one application. All times are seconds."""

    name: str
    service: str
    url: str
    timeout_seconds: float
    failures_before_restart: int
    start_grace_seconds: float
    restart_timeout_seconds: float
    release_dir: Path
    log_dir: Path
    data_dir: Path
    host_header: str | None = None
    operations_socket: Path | None = None
    """Where the app's master tells of its workers; None where it does not."""
    maintenance_file: Path | None = None
    """Where the app looks for a maintenance; None where it does not."""

    @property
    def unit(self) -> str:
        """The service's full unit name."""
        return self.service if self.service.endswith(".service") else f"{self.service}.service"

    @property
    def identifier(self) -> str:
        """The name under which the monitor's lines stand in the journal."""
        return f"sitectl-{self.name}"


OPTIONAL = frozenset({"host_header", "operations_socket", "maintenance_file"})
PATHS = ("_dir", "_socket", "_file")


def _is_plain_url(url: Any) -> bool:
    """Tell whether `url` is http, names a host, and can stand in a request line as it is."""
    if not _matches("[!-~]+", url):
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme == "http" and bool(parts.hostname) and parts.port != 0 and parts.username is None
    except ValueError:
        return False


def _matches(pattern: str, value: Any) -> bool:
    """Tell whether `value` is text of which all fits `pattern`."""
    return isinstance(value, str) and re.fullmatch(pattern, value, re.ASCII) is not None


def _text(allowed: str, pattern: str) -> Rule:
    """Return the rule for text that fits `pattern`."""
    return allowed, lambda value: _matches(pattern, value)


def _number(least: float, most: float, whole: bool = False) -> Rule:
    """Return the rule for a number; `true` is a number to Python, but not a duration."""
    kinds = (int,) if whole else (int, float)
    allowed = f"a {'whole ' if whole else ''}number from {least:g} to {most:g}"
    return allowed, lambda value: type(value) in kinds and least <= value <= most


_PATH = _text("an absolute path", r"/[^\0\n]*")
RULES: dict[str, Rule] = {
    "name": _text("a lower-case letter, then at most 31 letters, digits, - or _", r"[a-z][a-z0-9_-]{0,31}"),
    # the characters of a unit name (systemd.unit(5)), less the escapes
    "service": _text("the name of a systemd service", r"[A-Za-z0-9_][A-Za-z0-9:_.@-]{0,199}"),
    "url": ("like http://127.0.0.1:5555/health", _is_plain_url),
    # A check has 45 seconds in all (see check.py): with more than 20 for the HTTP request nothing is
    # left to restart and to wait.
    "timeout_seconds": _number(0.1, 20),
    "failures_before_restart": _number(1, 60, whole=True),
    "start_grace_seconds": _number(0, 3600),
    "restart_timeout_seconds": _number(1, 600),
    "release_dir": _PATH,
    "log_dir": _PATH,
    "data_dir": _PATH,
    "maintenance_file": _PATH,
    "host_header": _text("a host name", r"[\w.:\[\]-]+"),
    # what fits into the address of a Unix socket (unix(7))
    "operations_socket": _text("an absolute path of at most 107 characters", r"/[^\0\n]{0,106}"),
}


def parse(text: str, source: str) -> Settings:
    """Return the settings in `text` (JSON); `source` names the file in messages.

    Raises SettingsError for anything that is not exactly a settings file.
    """
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise SettingsError(f"{source} is not valid JSON: {error}") from error
    if not isinstance(raw, dict):
        raise SettingsError(f"{source} must hold one JSON object")
    known = {field.name for field in fields(Settings)}
    if unknown := sorted(set(raw) - known):
        raise SettingsError(f"{source}: unknown key {', '.join(unknown)} (known: {', '.join(sorted(known))})")
    if missing := sorted(known - OPTIONAL - set(raw)):
        raise SettingsError(f"{source}: missing key {', '.join(missing)}")
    for key, value in raw.items():
        allowed, is_allowed = RULES[key]
        if not is_allowed(value):
            raise SettingsError(f"{source}: {key} must be {allowed}, not {json.dumps(value)}")
    values: dict[str, Any] = {key: Path(raw[key]) if key.endswith(PATHS) else raw[key] for key in raw}
    return Settings(**values)


def read(path: Path) -> Settings:
    """Return the settings in the file `path`; raises SettingsError."""
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read {path}: {error}") from error


def load(directory: Path, site: str | None) -> Settings:
    """Return the settings of `site`, or of the only site when `site` is None; raises SettingsError."""
    choices = sorted(path.stem for path in directory.glob("*.json"))
    if not choices:
        raise SettingsError(f"no settings in {directory}: run the monitor playbook against this host first")
    if site is None:
        if len(choices) > 1:
            raise SettingsError(f"several sites on this host, say which: --site {' | '.join(choices)}")
        site = choices[0]
    if site not in choices:
        raise SettingsError(f"no site {site!r} on this host; there is: {', '.join(choices)}")
    settings = read(directory / f"{site}.json")
    if settings.name != site:
        raise SettingsError(f"{directory / site}.json: name must be {site!r} like the file, not {settings.name!r}")
    return settings

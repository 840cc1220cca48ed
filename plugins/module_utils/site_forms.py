"""The forms that values may have: checks of one value each, and rules made of them with words and an example.

Nothing here looks at the host or at another value. Only the controller uses this file. Patterns are applied with
`fullmatch`: `$` lets a trailing newline pass.
"""

from __future__ import annotations

import ast
import ipaddress
import re
import sys
import zoneinfo
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

Check = Callable[[object], bool]

_SIZE = re.compile(r"([1-9][0-9]{0,14})([KMGT]?)")
_WHOLE = re.compile(r"0|[1-9][0-9]{0,14}")
_MODULE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(\.[A-Za-z_][A-Za-z0-9_]*)*:([A-Za-z_][A-Za-z0-9_]*(\(.*\))?)")
_GIT_URL = re.compile(
    r"https://[A-Za-z0-9.-]+(:[0-9]{1,5})?/[A-Za-z0-9._~/-]+"
    r"|ssh://[a-z_][a-z0-9_-]*@[A-Za-z0-9.-]+(:[0-9]{1,5})?/[A-Za-z0-9._~/-]+"
    r"|[a-z_][a-z0-9_-]*@[A-Za-z0-9][A-Za-z0-9.-]*:[A-Za-z0-9._~/][A-Za-z0-9._~/-]*"
)
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")

MIB = 1024**2
UNITS = {"": 1, "K": 1024, "M": MIB, "G": 1024**3, "T": 1024**4}

# Ports of the machinery around the app: ssh, and the page on which the ngrok agent shows its traffic.
RESERVED_PORTS = frozenset({22, 4040})

# Users and services that a base system of Debian or Ubuntu has, and those that the roles make themselves.
_SYSTEM_NAMES = """
root daemon bin sys sync games man lp mail news uucp proxy www-data backup list irc gnats nobody sshd ssh
messagebus syslog dbus cron crond polkitd tss uuidd tcpdump landscape pollinate ubuntu debian admin adm sudo
staff users shadow systemd systemd-network systemd-resolve systemd-timesync systemd-journald systemd-logind
ngrok sitectl logrotate rsyslog nginx apache2 haproxy mysql postgres postgresql redis docker containerd
"""
RESERVED_NAMES = frozenset(_SYSTEM_NAMES.split())

# Variables that change which code runs, or that systemd and gunicorn use between themselves.
_DENIED_NAMES = """
PATH IFS ENV BASH_ENV SHELL SHELLOPTS PYTHONPATH PYTHONHOME PYTHONSTARTUP PYTHONINSPECT VIRTUAL_ENV
GUNICORN_CMD_ARGS NOTIFY_SOCKET WATCHDOG_USEC WATCHDOG_PID LISTEN_FDS LISTEN_PID LISTEN_FDNAMES
"""
DENIED_ENVIRONMENT = frozenset(_DENIED_NAMES.split())

# Nothing of an app may be put there, nor be read from there.
_SYSTEM_DIRECTORIES = "bin boot dev etc lib lib32 lib64 proc root run sbin sys usr"
SYSTEM_DIRECTORIES = frozenset(_SYSTEM_DIRECTORIES.split())


@dataclass(frozen=True)
class Rule:
    """How one variable is checked and explained.

    Attributes:
        accepts: true for a value that may be used.
        allowed: completes "must be ...".
        example: a value that is accepted, as it is written in YAML.
    """

    accepts: Check
    allowed: str
    example: str


def as_whole(value: object) -> int | None:
    """Return a whole number given as one, or as the decimal digits that `-e key=value` makes of it."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return int(value)
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value)
    return None


def parse_size(value: object) -> int | None:
    """Return the bytes of a size such as "800M" (powers of 1024, as in systemd), or None if it is none."""
    if isinstance(value, bool):
        return None
    text = str(value) if isinstance(value, int) else value
    if not isinstance(text, str):
        return None
    match = _SIZE.fullmatch(text)
    return int(match[1]) * UNITS[match[2]] if match else None


def whole(low: int, high: int, but_not: Collection[int] = ()) -> Check:
    """Accept whole numbers from `low` to `high`, except those of `but_not`."""

    def check(value: object) -> bool:
        number = as_whole(value)
        return number is not None and low <= number <= high and number not in but_not

    return check


def number_rule(low: int, high: int, example: int, unit: str = "") -> Rule:
    """Make the rule for a whole number in a range."""
    of = f" of {unit}" if unit else ""
    return Rule(whole(low, high), f"a whole number{of} from {low} to {high}", str(example))


def size_rule(least: str, example: str, zero: str = "") -> Rule:
    """Make the rule for a size of at least `least`; `zero` says what "0" means where it is allowed."""
    least_bytes = parse_size(least) or 0

    def check(value: object) -> bool:
        if zero and as_whole(value) == 0:
            return True
        number = parse_size(value)
        return number is not None and number >= least_bytes

    or_zero = f" (or 0: {zero})" if zero else ""
    return Rule(check, f"a size such as 800M or 1G, at least {least}{or_zero}", example)


def text(pattern: str, longest: int = 255) -> Check:
    """Accept strings of at most `longest` characters that match all of `pattern`."""
    compiled = re.compile(pattern)
    return lambda value: isinstance(value, str) and len(value) <= longest and compiled.fullmatch(value) is not None


def is_site_name(value: object) -> bool:
    """Accept a name that can be a Unix user, a unit, a directory and a file of /etc/cron.d at once."""
    return (
        isinstance(value, str)
        and re.fullmatch(r"[a-z]([a-z0-9-]{0,29}[a-z0-9])?", value) is not None
        and value not in RESERVED_NAMES
    )


def is_user_name(value: object) -> bool:
    """Accept the name of a Unix user that no base system has."""
    return (
        isinstance(value, str)
        and re.fullmatch(r"[a-z_]([a-z0-9_-]{0,29}[a-z0-9_])?", value) is not None
        and value not in RESERVED_NAMES
    )


def is_module(value: object) -> bool:
    """Accept `package.module:callable` and `package.module:factory(...)`, unless the module is Python's own.

    As Gunicorn does (`gunicorn.util.import_app`), a factory's arguments must be literals.
    """
    if not isinstance(value, str) or len(value) > 255:
        return False
    match = _MODULE.fullmatch(value)
    if match is None or match[1] in sys.stdlib_module_names:
        return False
    try:
        target = ast.parse(match[3], mode="eval").body
        if isinstance(target, ast.Call):
            arguments = [*target.args, *(keyword.value for keyword in target.keywords)]
            return isinstance(target.func, ast.Name) and all(_is_literal(argument) for argument in arguments)
    except (SyntaxError, ValueError):
        return False
    return isinstance(target, ast.Name)


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except ValueError:
        return False
    return True


def is_address(value: object) -> bool:
    """Accept an IPv4 address to listen on."""
    if not isinstance(value, str):
        return False
    try:
        ipaddress.IPv4Address(value)
    except ValueError:
        return False
    return True


def is_timezone(value: object) -> bool:
    """Accept a name of the time zone database; only its form is checked where the controller has none."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,2}", value):
        return False
    known = zoneinfo.available_timezones()
    return value in known if known else True


def _plain_path(value: object) -> list[str] | None:
    """Return the parts of an absolute path of plain characters without `.` and `..`, else None."""
    if not isinstance(value, str) or len(value) > 255 or not re.fullmatch(r"/[A-Za-z0-9._/-]+", value):
        return None
    parts = [part for part in value.split("/") if part]
    return None if not parts or {".", ".."} & set(parts) else parts


def is_host_path(value: object) -> bool:
    """Accept an absolute path on the host, of plain characters, that is not the system's."""
    parts = _plain_path(value)
    return parts is not None and parts[0] not in SYSTEM_DIRECTORIES


def are_places(value: object) -> bool:
    """Accept a mapping of absolute paths on the host to relative ones: where databases are, and where they go.

    Two in one place would be copied over each other.
    """
    return (
        isinstance(value, Mapping)
        and all(is_host_path(path) and is_relative_paths([place]) for path, place in value.items())
        and len({place.rstrip("/") for place in value.values()}) == len(value)
    )


def path_rule(*roots: str) -> Rule:
    """Make the rule for a path below one of these directories."""
    below = [root.strip("/").split("/") for root in roots]

    def check(value: object) -> bool:
        parts = _plain_path(value)
        return parts is not None and any(parts[: len(root)] == root and len(parts) > len(root) for root in below)

    allowed = f"a path below {' or '.join(roots)}, of letters, digits and ._- without .."
    return Rule(check, allowed, f"{roots[0]}/currents")


def decimal_rule(low: float, high: float, example: str) -> Rule:
    """Make the rule for a number of seconds that may have decimals."""

    def check(value: object) -> bool:
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", value):
            value = float(value)
        return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high

    return Rule(check, f"a number of seconds from {low:g} to {high:g}", example)


def list_of(pattern: str) -> Check:
    """Accept lists of strings that match all of `pattern`."""
    item = text(pattern)
    return lambda value: isinstance(value, list) and all(item(one) for one in value)


def is_relative_paths(value: object) -> bool:
    """Accept a list of paths below the code: relative, of plain characters, without `..`."""
    return isinstance(value, list) and all(
        isinstance(item, str)
        and re.fullmatch(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*/?", item) is not None
        and not {".", ".."} & set(item.split("/"))
        for item in value
    )


def is_git_url(value: object) -> bool:
    """Accept https and ssh forms without a password in them.

    `ext::`, `file:` and a leading `-` would make git run commands or read the controller's files.
    """
    return isinstance(value, str) and len(value) <= 512 and _GIT_URL.fullmatch(value) is not None


def is_version(value: object) -> bool:
    """Accept the name of a version (tag, branch, commit), or nothing."""
    return isinstance(value, str) and (
        value == "" or (_VERSION.fullmatch(value) is not None and ".." not in value and not value.endswith((".", "/")))
    )


def environment_faults(value: object) -> list[str]:
    """Return what is wrong with a mapping of environment variables, naming keys and never values."""
    if not isinstance(value, Mapping):
        return ["must be names and values, for example {LOG_LEVEL: info}"]
    faults: list[str] = []
    for name, content in value.items():
        if not isinstance(name, str) or not _ENVIRONMENT_NAME.fullmatch(name):
            faults.append(f"{name!a} is not a name: use letters, digits and _, for example LOG_LEVEL")
        elif name in DENIED_ENVIRONMENT or name.startswith("LD_"):
            faults.append(f"{name} may not be set: it changes how the service itself is run")
        elif isinstance(content, (bool, float)):
            faults.append(f'the value of {name} must be a string: put it in quotes, for example "1.10"')
        elif not isinstance(content, (str, int)):
            faults.append(f"the value of {name} must be a string")
    return faults

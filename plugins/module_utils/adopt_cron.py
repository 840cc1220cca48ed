"""The lines of cron that start, watch or kill an app, and how they are retired and brought back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SPOOL = "var/spool/cron/crontabs"
#: What a line or its script does that would work against a service: kill the app, or start a second one.
_ACTS = re.compile(
    r"\b(pkill|killall|kill|fuser|nohup|setsid|disown|daemonize|gunicorn|waitress-serve|uwsgi|flask|systemctl|service)\b"
    r"|\b(python|pypy)[0-9.]*\s|\S\.py\b.*&\s*$",
    re.MULTILINE,
)
_ASSIGNMENT = re.compile(r"\s*[A-Za-z_][A-Za-z0-9_]*\s*=")
#: A script that a line names; more than this is no script that somebody wrote for a monitor.
_SCRIPT_BYTES = 64 * 1024


@dataclass(frozen=True)
class App:
    """What gives a line away as one about the app.

    Attributes:
        directory: where it runs.
        argv: its command line.
        port: the TCP port that it listens on.
        home: the home of its user, for ``~``.
        unit: the service that ran it, or empty.
    """

    directory: str
    argv: Sequence[str]
    port: int
    home: str = ""
    unit: str = ""


@dataclass(frozen=True)
class Line:
    """A line of a crontab that is about the app.

    Attributes:
        path: of the crontab.
        text: the whole line.
        acts: whether it starts or kills something; those that do not (a backup, a mere look) are left alone.
        agent: whether it is about the ngrok agent.
    """

    path: str
    text: str
    acts: bool
    agent: bool = False


def tables(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield each crontab of the host with the user who owns it, empty where each line names its own."""
    for path in sorted((root / SPOOL).glob("[!.]*")):
        yield path, path.name
    for path in (root / "etc/crontab", *sorted((root / "etc/cron.d").glob("[!.]*"))):
        if path.is_file():
            yield path, ""


def kills(text: str, command: str) -> bool:
    """Tell whether a ``pkill -f PATTERN`` or ``pgrep -f PATTERN`` in a text would match a command line."""
    for _, quoted, plain in re.findall(
        r"""\bp(?:kill|grep)\b[^|;&\n]*?\s-\w*f\w*\s+(?:(["'])(.*?)\1|([^\s;&|]+))""", text
    ):
        try:
            if re.search(quoted or plain, command):
                return True
        except re.error:
            continue
    return False


def mentions(text: str, app: App) -> bool:
    """Tell whether a text names the app: its directory, its command, its port, its unit, or a pattern that kills it."""
    command = " ".join(app.argv)
    places, unit = {app.directory}, re.escape(app.unit.removesuffix(".service")) or r"\b\B"
    if app.home and app.directory.startswith(app.home + "/"):
        below = app.directory[len(app.home) :]
        places |= {f"{home}{below}" for home in ("~", "$HOME", "${HOME}")}
    return (
        any(re.search(re.escape(place) + r"(?![\w.-])", text) for place in places)
        or (len(app.argv) > 1 and command in text)
        or re.search(rf"(?<![\w.]){app.port}(?![\w.])", text) is not None
        or re.search(rf"\b(systemctl|service)\s[^;&|\n]*(?<=\s){unit}(\.service)?(?![\w.@-])", text) is not None
        or kills(text, command)
    )


def scripts(text: str, home: str, read: Callable[[str], str]) -> str:
    """Return the text of all scripts that a line names."""
    words = re.findall(r"[~/$][^\s;&|<>\"']*", text)
    paths = {re.sub(r"^(~|\$HOME|\$\{HOME\})(?=/)", home, word) for word in words}
    return "\n".join(read(path) for path in sorted(paths))


def script_text(path: str) -> str:
    """Return what is in a script; empty for what is large, missing, or no text."""
    try:
        if not Path(path).is_file() or Path(path).stat().st_size > _SCRIPT_BYTES:
            return ""
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def lines_about(path: str, content: str, app: App, read: Callable[[str], str] = script_text) -> list[Line]:
    """Return the lines of a crontab that are about the app; comments and assignments are none.

    Args:
        path: of the crontab.
        content: what is in it.
        app: what to look for.
        read: returns the text of a script by its path.
    """
    found = []
    for text in content.split("\n"):
        if not text.strip() or text.lstrip().startswith("#") or _ASSIGNMENT.match(text):
            continue
        # The five fields of the time are no port.
        command = text.split(None, 1)[1] if text.lstrip().startswith("@") else "".join(text.split(None, 5)[5:])
        whole = command + "\n" + scripts(command, app.home, read)
        if mentions(whole, app):
            agent = "ngrok" in whole and not re.search(r"\.py\b|python", whole)
            found.append(Line(path, text, agent or _ACTS.search(whole) is not None, agent))
    return found


def marker(name: str) -> str:
    """Return what stands before a retired line."""
    return f"#sitekeeper-{name}# "


def retired(content: str, gone: Sequence[str], name: str, day: str) -> str:
    """Return a crontab with some lines commented out, each below a line that says when and why; others stay as is.

    Args:
        content: of the crontab.
        gone: the lines.
        name: the app's.
        day: such as 2026-02-11.
    """
    why = f"# Retired {day} by sitekeeper: {name}.service runs the app now. To bring the line back, take its mark off."
    return "\n".join(f"{why}\n{marker(name)}{line}" if line and line in gone else line for line in content.split("\n"))


def restored(content: str, name: str) -> str:
    """Return a crontab with its retired lines brought back, whatever else was changed in it meanwhile."""
    result: list[str] = []
    for line in content.split("\n"):
        if line.startswith(marker(name)) and result and result[-1].startswith("# Retired "):
            result.pop()
        result.append(line.removeprefix(marker(name)))
    return "\n".join(result)

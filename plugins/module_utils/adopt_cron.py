"""The lines of cron that start, watch or kill an app, and how they are retired and brought back."""

from __future__ import annotations

import pwd
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
        user: the name of its user.
    """

    directory: str
    argv: Sequence[str]
    port: int
    home: str = ""
    unit: str = ""
    user: str = ""


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


def names_directory(text: str, app: App, own: bool) -> bool:
    """Tell whether a text names an app's directory, or a path in it.

    Args:
        text: of a line and its scripts.
        app: the app.
        own: whether its own user runs the line, whose home ``~`` is and where cron begins.
    """
    at_home = app.directory == app.home
    places, end = [re.escape(app.directory)], r"(?![\w.-])"
    if app.home and (at_home or app.directory.startswith(app.home + "/")):
        below = app.directory[len(app.home) :]
        homes = [f"~{app.user}"] if app.user else []
        homes += ["~", "$HOME", "${HOME}"] if own else []
        places += [re.escape(f"{home}{below}") for home in homes]
        places += [rf"\bcd\s+[\"']?{re.escape(below[1:])}"] if own and below else []
    if at_home:
        # Other apps live below a home, too: only the directory itself counts, or the app's script.
        own_scripts = "|".join(re.escape(word) for word in app.argv[1:] if word.endswith(".py")) or r"\b\B"
        end = rf"(/?(?![\w./-])|/({own_scripts})(?![\w.-]))"
    return any(re.search(place + end, text) for place in places)


def names_port(text: str, port: int) -> bool:
    """Tell whether a text names a TCP port, and not only the same number."""
    before = r":|\btcp\s|(?<!\S)-p\s?|--port[=\s]|\bngrok\b[^;&|\n]*\s"
    return re.search(rf"(?:{before}){port}(?![\w.])|(?<![\w.]){port}/tcp\b", text) is not None


def mentions(text: str, app: App, owner: str | None = None) -> bool:
    """Tell whether a text names an app: its directory, its command, its port, its unit, or a pattern that kills it.

    Args:
        text: of a line and its scripts.
        app: the app.
        owner: who runs the line; None for the app's own user.
    """
    own, command = owner in (None, app.user), " ".join(app.argv)
    if names_directory(text, app, own):
        return True
    if not own and owner != "root":
        # Neither may they kill it, nor is a command of the same words, a python3 app.py of their own, this one.
        return False
    unit = re.escape(app.unit.removesuffix(".service")) or r"\b\B"
    # Without a path, the same words in another directory start another app.
    whole = any(word.startswith("/") for word in app.argv[1:])
    begins_here = own and app.directory == app.home and not re.search(r"\bcd\b", text)
    return (
        (len(app.argv) > 1 and command in text and (whole or begins_here))
        or names_port(text, app.port)
        or re.search(rf"\b(systemctl|service)\s[^;&|\n]*(?<=\s){unit}(\.service)?(?![\w.@-])", text) is not None
        or kills(text, command)
    )


def home_named(user: str | None) -> str:
    """Return the home directory of a user by name, or nothing."""
    try:
        return pwd.getpwnam(user or "").pw_dir
    except KeyError:
        return ""


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


def lines_about(
    path: str, content: str, app: App, read: Callable[[str], str] = script_text, owner: str | None = None
) -> list[Line]:
    """Return the lines of a crontab that are about the app; comments and assignments are none.

    Args:
        path: of the crontab.
        content: what is in it.
        app: what to look for.
        read: returns the text of a script by its path.
        owner: whose crontab it is, empty where each line names its user; None for the app's own user.
    """
    found = []
    for text in content.split("\n"):
        if not text.strip() or text.lstrip().startswith("#") or _ASSIGNMENT.match(text):
            continue
        # The five fields of the time are no port.
        command = text.split(None, 1)[1] if text.lstrip().startswith("@") else "".join(text.split(None, 5)[5:])
        who = owner
        if who == "":
            who, command = [*command.split(None, 1), "", ""][:2]
        home = app.home if who in (None, app.user) else home_named(who)
        whole = command + "\n" + scripts(command, home, read)
        if mentions(whole, app, who):
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

"""What is found of an app that somebody runs by hand, what stands in the way of adopting it, and both as a text."""

from __future__ import annotations

import json
import pwd
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

# As Ansible ships it to the host; see tests/conftest.py.
from ansible.module_utils.adopt_cron import App, Line, lines_about, script_text, tables
from ansible.module_utils.adopt_host import (
    CONTAINERS,
    SERVERS,
    Host,
    Process,
    app_directory,
    databases,
    family,
    is_inside,
)
from ansible.module_utils.adopt_places import links_away, place_of, place_problems
from ansible.module_utils.adopt_units import belongs_to_site, is_transient, is_watched, neighbours_of, unit_files
from ansible.module_utils.adopt_wanted import Wanted

#: Where the originals are kept, from the root; below it NAME/adopt.
KEPT = Path("var/lib/sitekeeper")
#: Variables that a login, a terminal, nohup, systemd or Flask's reloader gives to every process.
_USUAL = re.compile(
    r"HOME|PATH|SHELL|USER|LOGNAME|PWD|OLDPWD|LANG|LANGUAGE|TERM|SHLVL|_|MAIL|PS1|EDITOR|HOSTNAME|DISPLAY|COLORTERM"
    r"|LS_COLORS|VIRTUAL_ENV|VIRTUAL_ENV_PROMPT|INVOCATION_ID|JOURNAL_STREAM|SYSTEMD_EXEC_PID|NOTIFY_SOCKET"
    r"|(LC|SSH|XDG|DBUS|SUDO|LESS|HIST|TMUX|MEMORY_PRESSURE|LISTEN|WERKZEUG)_?\w*"
)


@dataclass(frozen=True)
class Found:
    """What is on the host.

    Attributes:
        state: ``nothing`` listens, ``adopted`` already, ``foreign``, or ``unfinished``: an adoption was broken off.
        members: the processes of the app, the eldest first.
        directory: where the app lives.
        unit: the service that runs it and nothing else, or empty.
        shared_unit: the service that runs it with others, or only left it behind; or empty.
        neighbours: those others.
        transient: whether its service is gone once it is stopped.
        units: unit files that somebody installed for it, running or not.
        databases: each database and where it goes; empty where the settings do not say.
        links: links in its code that lead to its user's files elsewhere, and where to.
        strangers: processes of others that have a database open.
        lines: of cron, about the app.
        agents: ngrok agents that were started by hand.
        families: how many unrelated processes listen on the port.
    """

    state: str
    members: tuple[Process, ...] = ()
    directory: str = ""
    unit: str = ""
    shared_unit: str = ""
    neighbours: tuple[Process, ...] = ()
    transient: bool = False
    units: tuple[str, ...] = ()
    databases: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    strangers: tuple[Process, ...] = ()
    lines: tuple[Line, ...] = ()
    agents: tuple[Process, ...] = ()
    families: int = 0

    @property
    def leader(self) -> Process:
        """The eldest process, whose command starts all of them."""
        return self.members[0]

    def to_retire(self, tunnel: bool) -> list[Line]:
        """Return the lines of cron that go; those about the ngrok agent only when the tunnel is taken over."""
        return [line for line in self.lines if line.acts and (tunnel or not line.agent)]


def home_of(uid: int) -> str:
    """Return a user's home directory, or nothing."""
    try:
        return pwd.getpwuid(uid).pw_dir
    except KeyError:
        return ""


def status_of(root: Path, name: str) -> str:
    """Return how far the last adoption went: nothing, ``saved``, ``switching``, ``done`` or ``put back``."""
    try:
        text = (root / KEPT / name / "adopt/plan.json").read_text(encoding="utf-8")
        return str(json.loads(text)["status"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def agents_of(processes: Mapping[int, Process], port: int) -> tuple[Process, ...]:
    """Return the ngrok agents that somebody started by hand for a port, by their command or their configuration."""
    found = (one for one in processes.values() if "ngrok" in (Path(one.program).name, Path(one.argv[0]).name))
    return tuple(one for one in found if not one.unit and re.search(rf"(?<![\w.]){port}(?!\w)", agent_text(one)))


def agent_text(agent: Process) -> str:
    """Return an ngrok agent's command and its configuration: the one that it names, or that of its user."""
    named = re.findall(r"--?config[= ](\S+)", " ".join(agent.argv))
    home = home_of(agent.uid)
    usual = [f"{home}/.config/ngrok/ngrok.yml", f"{home}/.ngrok2/ngrok.yml"]
    return "\n".join([" ".join(agent.argv), *(script_text(str(Path(agent.cwd, path))) for path in named or usual)])


def survey(host: Host, wanted: Wanted, midway: bool = False) -> Found:
    """Look at the host without changing anything.

    Args:
        host: the host.
        wanted: what the settings say.
        midway: whether the adoption that is under way is the caller's own.
    """
    unfinished = not midway and status_of(host.root, wanted.name) == "switching"
    listeners = host.listeners(wanted.port)
    processes = host.processes()
    found = (processes[pid] for pid in listeners if pid in processes)
    hands = [one.pid for one in found if not belongs_to_site(one, wanted.name, wanted.root, host.root)]
    if unfinished or not hands:
        return Found("unfinished" if unfinished else "adopted" if listeners else "nothing")
    families = {family(pid, processes)[0]: family(pid, processes) for pid in hands}
    members = tuple(processes[pid] for pid in next(iter(families.values())))
    one = processes[hands[0]]
    directory = app_directory(one)
    neighbours = neighbours_of(one.unit, members, processes)
    unit = one.unit if not neighbours and is_watched(host, one.unit, members) else ""
    app = App(directory, one.argv, wanted.port, home_of(one.uid), unit or f"{wanted.name}.service", one.user)
    places = {path: place_of(path, directory, wanted) for path in databases(host, members, directory)}
    pids = {member.pid for member in members}
    opened = {pid: set(host.open_files(pid)) for pid in processes if pid not in pids}
    lines = [
        line for path, owner in tables(host.root) for line in lines_about(str(path), crontab(path), app, owner=owner)
    ]
    return Found(
        "foreign",
        members,
        directory,
        unit,
        shared_unit="" if unit else one.unit,
        neighbours=neighbours,
        transient=is_transient(host.root, unit),
        units=tuple(unit_files(host.root, wanted.name, directory, members)),
        databases={path: place for path, place in places.items() if place is not None},
        links=links_away(directory, one.uid, wanted.exclude, places),
        strangers=tuple(processes[pid] for pid, files in opened.items() if files & set(places)),
        lines=tuple(lines),
        agents=agents_of(processes, wanted.port),
        families=len(families),
    )


def crontab(path: Path) -> str:
    """Return a crontab's text, from which the same bytes can be made again."""
    return path.read_bytes().decode("utf-8", "surrogateescape")


def unplaced_environment(found: Found, wanted: Wanted) -> list[str]:
    """Return the names of the old environment that the settings do not have."""
    names = {name for name in found.leader.environ if not _USUAL.fullmatch(name)}
    return sorted(names - set(wanted.environment))


def overlap(one: str, other: str) -> bool:
    """Tell whether one directory is the other or lies in it; everything lies in /, which is no app's."""
    return "/" not in (one, other) and (is_inside(one, other) or is_inside(other, one))


def problems_of(found: Found, wanted: Wanted) -> list[str]:
    """Return everything that stands in the way, each with what to do."""
    port = wanted.port
    if found.state == "nothing":
        return [f"nothing listens on port {port}: start the app, correct app_port, or use site.yml for a new site"]
    if found.state != "foreign":
        return []
    last = found.members[-1]
    if any(one.in_container or CONTAINERS.search(one.cgroup) for one in found.members):
        return [f"process {last.pid} ({last.shown}) runs in a container: stop that, then use site.yml"]
    site = next((top for top in (wanted.root, wanted.data_dir) if overlap(top, found.directory)), "")
    faults = (
        (
            last.user_unit,
            f"{last.user_unit} of {last.user}'s own systemd runs it and would start it again: disable it with "
            "systemctl --user and start the app by hand",
        ),
        (
            found.shared_unit,
            f"process {last.pid} ({last.shown}) runs below {found.shared_unit} with others "
            f"({', '.join(one.shown for one in found.neighbours) or 'its main process is another'}), which may not be "
            "stopped: take it out of there, start it by hand (nohup), and run this again",
        ),
        (
            found.transient,
            f"{found.unit} was made by systemd-run and is gone once it is stopped, so it could not be put back: start "
            "the app by hand (nohup), and run this again",
        ),
        (found.families > 1, f"{found.families} unrelated processes listen on port {port}: stop all but one"),
        (
            not any(SERVERS.fullmatch(Path(one.program).name) for one in found.members),
            f"process {last.pid} ({last.shown}) is no Python program, so no WSGI app: correct app_port",
        ),
        (
            not found.unit and not found.shared_unit and not command_of(found.leader),
            f"{found.leader.argv[0]!r} is no command, so the old process could not be put back: start it by its path",
        ),
        (wanted.front, "front is haproxy: adopt with front: none, and switch it on afterwards (playbooks/deploy.yml)"),
        (
            site,
            f"the app lives in {found.directory}, and the new site will in {site}: stop it, move its directory out of "
            "there, start it at its new place and correct app_source",
        ),
        (found.directory in ("", "/"), "its directory cannot be told: start it in its directory"),
        (
            wanted.source_type == "host_path" and found.directory != wanted.source.rstrip("/"),
            f"app_source is {wanted.source}, but what listens on port {port} lives in {found.directory}: correct one",
        ),
    )
    told = [fault for bad, fault in faults if bad]
    told += [
        f"{name} in the code leads to {target}, which would not be taken along, nor could the new site write there: "
        "move it into the code and name it in app_shared_paths, or in app_exclude if the app needs none of it"
        for name, target in found.links.items()
    ]
    return told + place_problems(found.databases, found.directory, wanted)


def command_of(process: Process) -> str:
    """Return the file that a process's command names, as its user's shell finds it; empty where there is none."""
    name = process.argv[0]
    return shutil.which(str(Path(process.cwd, name)) if "/" in name else name, path=process.environ.get("PATH")) or ""


def virtual_environment(process: Process) -> str:
    """Return the virtual environment in which a Python runs, or nothing."""
    top = Path(command_of(process)).parent.parent
    return str(top) if (top / "pyvenv.cfg").is_file() else ""


def rows_of(found: Found, wanted: Wanted) -> list[tuple[str, str]]:
    """Return what was found and what will be done with it, as pairs of label and text. No secret is in it."""
    if found.state == "unfinished":
        return [("adoption", "was broken off: first the old process is put back as it was")]
    if not found.members:
        return []
    leader = found.leader
    python = next((member for member in found.members if SERVERS.fullmatch(Path(member.program).name)), leader)
    venv = virtual_environment(python)
    by = found.unit or found.shared_unit or "hand"
    numbers = ", ".join(str(member.pid) for member in found.members)
    rows = [
        (
            "process",
            f"{leader.shown} (pid {numbers}) of user {leader.user}, started by {by}",
        ),
        ("directory", found.directory),
        ("interpreter", f"{python.program}, " + (f"virtual environment {venv}" if venv else "no virtual environment")),
        ("environment", ", ".join(unplaced_environment(found, wanted)) or "nothing that the settings do not have"),
    ]
    if unplaced_environment(found, wanted):
        rows[-1] = ("environment", f"{rows[-1][1]}: not in app_environment or app_secrets, so the new site lacks them")
    rows += [
        ("log", f"{path}: stays; new lines go to the journal and to /var/log/{wanted.name}")
        for path in dict.fromkeys(path for path in leader.outputs if path)
    ]
    rows += [
        ("database", f"{path}: saved, checked, copied to {place or '?'}; stays")
        for path, place in found.databases.items()
    ]
    rows += [
        ("database", f"also opened by {one.shown} (pid {one.pid}), which stays and keeps the old file")
        for one in found.strangers
    ]
    if found.unit and found.unit not in found.units:
        rows.append(("unit", f"{found.unit}: runs the app; stopped and disabled"))
    for name in found.units:
        fate = "stopped and disabled" if name == found.unit else "disabled"
        rows.append(("unit", f"{name}: {'replaced' if name == f'{wanted.name}.service' else fate}, a copy is kept"))
    for line in found.lines:
        goes = line in found.to_retire(wanted.tunnel)
        rows.append(("cron, retired" if goes else "cron, stays", f"{line.path}: {line.text.strip()}"))
    fate = "stopped when the role ngrok takes over" if wanted.tunnel else "stays: there is no ngrok_authtoken"
    rows += [("ngrok", f"{one.shown} (pid {one.pid}) of user {one.user}: {fate}") for one in found.agents]
    return rows


def text_of(found: Found, wanted: Wanted) -> str:
    """Return the plan as an operator reads it."""
    rows = rows_of(found, wanted)
    width = max((len(label) for label, _ in rows), default=0)
    return "\n".join(f"  {label:<{width}}  {text}" for label, text in rows)

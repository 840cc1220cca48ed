"""What runs on a host that somebody set up by hand: who listens on a port, its family of processes, its databases.

All of it is read below a root directory, which is ``/`` on a host and a made-up tree in tests. Nothing is changed.
"""

from __future__ import annotations

import os
import pwd
import re
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ansible.module_utils.host_listeners import listening_inodes

#: https://www.sqlite.org/fileformat.html, section 1.3
SQLITE_MAGIC = b"SQLite format 3\0"
#: What holds no data of the app's own, and may be huge.
SKIPPED_DIRECTORIES = frozenset({".git", ".venv", "venv", "env", "node_modules", "__pycache__", "site-packages"})
SERVERS = re.compile(r"(python|pypy)[0-9.]*|uwsgi(-core)?|gunicorn|waitress-serve")
SHELLS = frozenset({"sh", "bash", "dash", "zsh", "fish"})
CONTAINERS = re.compile(r"docker|containerd|libpod|kubepods|/lxc|machine\.slice")
OWN_SIGNALS = frozenset({signal.SIGPIPE, signal.SIGXFSZ})

Run = Callable[[Sequence[str]], tuple[int, str, str]]


@dataclass(frozen=True)
class Process:
    """A process as /proc shows it.

    Attributes:
        argv: its command line.
        cwd: its directory, empty when it cannot be read.
        program: the file that it runs.
        environ: its environment at its start; the values may be secrets and are never shown.
        cgroup: the path below which systemd accounts it.
        groups: its supplementary groups.
        outputs: where its standard output and error go: paths, or empty for what is no file.
        ignores: the signals that it ignores: SIGHUP under nohup, SIGINT and SIGQUIT in a script's background.
        leads_terminal: whether a terminal was opened for it: it leads a session that has one.
        in_container: whether it lives in another pid namespace than process 1.
    """

    pid: int
    parent: int
    uid: int
    gid: int
    argv: tuple[str, ...]
    cwd: str
    program: str = ""
    environ: Mapping[str, str] = field(default_factory=dict)
    cgroup: str = ""
    groups: tuple[int, ...] = ()
    outputs: tuple[str, str] = ("", "")
    ignores: tuple[int, ...] = ()
    leads_terminal: bool = False
    in_container: bool = False

    @property
    def user(self) -> str:
        """The name of its user, or its number where it has none."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return str(self.uid)

    @property
    def shown(self) -> str:
        """Its program and its first two arguments: later ones may be secrets."""
        return " ".join(word for word in self.argv[:3] if word)[:80]

    @property
    def unit(self) -> str:
        """The system's service that runs it; empty for what was started by hand or by cron."""
        match = re.fullmatch(r"/system\.slice/(?:[^/]+\.slice/)*([^/]+\.service)(?:/.*)?", self.cgroup)
        return match[1] if match and match[1] not in ("cron.service", "ssh.service") else ""

    @property
    def user_unit(self) -> str:
        """The service of a user's own systemd that runs it, or empty."""
        match = re.search(r"/user@\d+\.service/.*?([^/]+\.service)$", self.cgroup)
        return match[1] if match else ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""


class Host:
    """The processes and files of a host.

    Args:
        root: where /proc is.
        run: runs a command; returns status, output and error output. Without it systemd is not asked.
    """

    def __init__(self, root: Path = Path("/"), run: Run | None = None) -> None:
        self.root, self.run = root, run
        self.proc = root / "proc"

    def pids(self) -> list[int]:
        """Return the numbers of all processes."""
        return sorted(int(one.name) for one in self.proc.iterdir() if one.name.isdigit())

    def process(self, pid: int) -> Process | None:
        """Read one process; None when it is gone or a zombie."""
        at = self.proc / str(pid)
        status = dict(re.findall(r"^(\w+):[ \t]*(.*)$", _text(at / "status"), re.MULTILINE))
        argv = tuple(_text(at / "cmdline").rstrip("\0").split("\0"))
        if not status or status.get("State", "Z").startswith(("Z", "X")):
            return None
        pairs = (pair.partition("=") for pair in _text(at / "environ").split("\0") if "=" in pair)
        first = _link(self.proc / "1/ns/pid")
        # State, parent, group, session, terminal: behind the name, in which anything may be (proc(5)).
        about = _text(at / "stat").rpartition(")")[2].split()
        outputs = [_link(at / "fd" / number) for number in ("1", "2")]
        return Process(
            pid=pid,
            parent=int(status.get("PPid", "0")),
            uid=int(status["Uid"].split()[1]),
            gid=int(status["Gid"].split()[1]),
            argv=argv if argv != ("",) else (status.get("Name", ""),),
            cwd=_link(at / "cwd"),
            program=_link(at / "exe").removesuffix(" (deleted)"),
            environ={name: value for name, _, value in pairs},
            cgroup=_text(at / "cgroup").strip().rsplit("::", 1)[-1],
            groups=tuple(int(number) for number in status.get("Groups", "").split()),
            outputs=(plain_file(outputs[0]), plain_file(outputs[1])),
            ignores=signals_of(int(status.get("SigIgn", "0"), 16)),
            leads_terminal=len(about) > 4 and about[3] == str(pid) and about[4] != "0",
            in_container=first != "" and _link(at / "ns/pid") != first,
        )

    def processes(self) -> dict[int, Process]:
        """Read all processes."""
        return {pid: one for pid in self.pids() if (one := self.process(pid))}

    def open_files(self, pid: int) -> Iterator[str]:
        """Yield what a process has open: paths, and names such as ``socket:[123]``."""
        try:
            handles = list((self.proc / str(pid) / "fd").iterdir())
        except OSError:
            return
        for handle in handles:
            if target := _link(handle):
                yield target

    def main_pid(self, unit: str) -> int | None:
        """Return the process that systemd watches for a service, 0 where there is none; None when it does not say."""
        status, out, _ = self.run(("systemctl", "show", unit, "-p", "MainPID", "--value")) if self.run else (1, "", "")
        return int(out) if status == 0 and out.strip().isdigit() else None

    def listeners(self, port: int) -> list[int]:
        """Return the processes that listen on a TCP port."""
        tables = (_text(self.proc / "net/tcp"), _text(self.proc / "net/tcp6"))
        links = {f"socket:[{inode}]" for table in tables for inode in listening_inodes(table, port)}
        return [pid for pid in self.pids() if links and any(one in links for one in self.open_files(pid))]


def signals_of(mask: int) -> tuple[int, ...]:
    """Return the signals of a mask in /proc/PID/status, without those that every Python ignores by itself."""
    return tuple(one for one in signal.Signals if mask >> (one - 1) & 1 and one not in OWN_SIGNALS)


def plain_file(target: str) -> str:
    """Return an open file's path; empty for pipes, sockets, terminals and what was deleted."""
    ordinary = target.startswith("/") and not target.startswith("/dev/") and not target.endswith(" (deleted)")
    return target if ordinary else ""


def is_inside(path: str, directory: str) -> bool:
    """Tell whether a path is a directory or lies in it."""
    return bool(directory) and (path == directory or path.startswith(directory.rstrip("/") + "/"))


def is_terminal(process: Process) -> bool:
    """Tell whether a process is somebody's terminal and no script: a shell without the name of a file or a command.

    What a terminal was opened for may have arguments that look like a script; there it has to be one.
    """
    if not {Path(process.argv[0]).name.lstrip("-"), Path(process.program).name} & SHELLS:
        return False
    words = iter(process.argv[1:])
    for word in words:
        if word in ("-", "--"):
            continue
        if not word.startswith(("-", "+")):
            return process.leads_terminal and not Path(process.cwd, word).is_file()
        if re.fullmatch(r"-[A-Za-z]*c[A-Za-z]*", word):
            return False
        if re.fullmatch(r"--(init-file|rcfile|init-command)|[-+][A-Za-z]*[oO]", word):
            next(words, "")
    return True


def app_directory(process: Process) -> str:
    """Return where an app lives: the directory of the script that was named, else the one it runs in."""
    script = next((word for word in process.argv[1:] if not word.startswith("-")), "")
    return str(Path(process.cwd, script).parent) if script.endswith(".py") else process.cwd


def family(pid: int, processes: Mapping[int, Process]) -> list[int]:
    """Return a listener's family, the eldest first: what started it and would start it again, and all children.

    A parent belongs to it when it has the same user, and runs in the app's directory or names it, and is nobody's
    terminal: a reloader, a Gunicorn master, ``sh run.sh`` with a loop in it.
    """
    top, directory = pid, app_directory(processes[pid])
    while parent := processes.get(processes[top].parent):
        related = is_inside(parent.cwd, directory) or any(directory in word for word in parent.argv)
        if parent.pid == 1 or parent.uid != processes[pid].uid or not related or is_terminal(parent):
            break
        top = parent.pid
    found = [top]
    for one in found:
        found += sorted(child.pid for child in processes.values() if child.parent == one and child.pid not in found)
    return found


def is_database(path: Path) -> bool:
    """Tell whether a file is a SQLite database."""
    try:
        if not path.is_file():
            # Opening a pipe waits for ever, and opening a device may do something.
            return False
        with path.open("rb") as content:
            return content.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC
    except OSError:
        return False


def databases(host: Host, members: Sequence[Process], directory: str) -> list[str]:
    """Return the SQLite databases of an app: those open, those named in its environment, those in its directory.

    An app that opens its database for each request has none open at most moments.
    """
    found: set[str] = set()
    for one in members:
        named = [plain_file(target) for target in host.open_files(one.pid)]
        named += [word for value in one.environ.values() for word in re.findall(r"/[^:?\s]+", value)]
        found |= {os.path.realpath(path) for path in named if path and is_database(Path(path))}
    # What runs at the root of the host has no directory of its own.
    for top, inside, files in os.walk(directory) if directory not in ("", "/") else ():
        inside[:] = [name for name in inside if name not in SKIPPED_DIRECTORIES]
        paths = [Path(top, name) for name in files]
        found |= {str(path) for path in paths if not path.is_symlink() and is_database(path)}
    return sorted(path for path in found if not path.endswith(("-wal", "-shm", "-journal")))

"""A made-up host for the tests of the adoption: /proc, crontabs and unit files below a directory."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

PORT = 5555
APP = "/home/ubuntu/currents"


class Tree:
    """Files below a root, as the kernel and cron lay them out."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "proc/net").mkdir(parents=True)
        self.table: list[str] = []
        self.process(1, 0, ["/sbin/init"], cwd="/", uid=0, program="/usr/lib/systemd/systemd")

    def process(
        self,
        pid: int,
        parent: int,
        argv: Sequence[str],
        *,
        cwd: str = APP,
        uid: int = 1000,
        program: str = "/usr/bin/python3.11",
        environ: Mapping[str, str] | None = None,
        cgroup: str = "/user.slice/user-1000.slice/session-3.scope",
        files: Sequence[str] = (),
        namespace: str = "pid:[1]",
        leads: bool = False,
    ) -> None:
        """Add a process; `files` are what it has open, its output first, and `leads` makes it a terminal's first."""
        at = self.root / "proc" / str(pid)
        (at / "fd").mkdir(parents=True)
        (at / "ns").mkdir()
        (at / "status").write_text(
            f"Name:\t{Path(argv[0]).name}\nState:\tS (sleeping)\nPPid:\t{parent}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n"
            f"Gid:\t{uid}\t{uid}\t{uid}\t{uid}\nGroups:\t{uid} 27 \nSigIgn:\t0000000001001007\n"
        )
        session, terminal = (pid, 34817) if leads else (1, 0)
        (at / "stat").write_text(f"{pid} (a) b) S {parent} {pid} {session} {terminal} -1 4194304\n")
        (at / "cmdline").write_text("\0".join(argv) + "\0")
        (at / "environ").write_text("".join(f"{name}={value}\0" for name, value in (environ or {}).items()))
        (at / "cgroup").write_text(f"0::{cgroup}\n")
        for name, target in (("cwd", cwd), ("exe", program), ("ns/pid", namespace)):
            (at / name).symlink_to(target)
        for number, target in enumerate(["/dev/null", *files]):
            (at / "fd" / str(number)).symlink_to(target)

    def listen(self, pid: int, inode: int = 777, port: int = PORT) -> None:
        """Let a process listen on a port."""
        self.table.append(
            f"   0: 00000000:{port:04X} 00000000:0000 0A 00000000:00000000 00:0 00000000 1000 0 {inode} 1"
        )
        (self.root / "proc/net/tcp").write_text("\n".join(["header", *self.table]) + "\n")
        handles = self.root / "proc" / str(pid) / "fd"
        (handles / str(len(list(handles.iterdir())))).symlink_to(f"socket:[{inode}]")

    def file(self, path: str, text: str) -> Path:
        """Write a file."""
        at = self.root / path
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_text(text)
        return at


def make_database(path: Path) -> str:
    """Make a SQLite database with a table; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as made:
        made.execute("CREATE TABLE votes (voter TEXT)")
        made.commit()
    return str(path)


class Late(BaseException):
    """It takes too long; nothing that is tested may take this for an error of its own."""


@contextmanager
def hanging_is_a_failure(seconds: int = 10) -> Iterator[None]:
    """Fail when what is done inside takes longer."""

    def late(*_words: object) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    except Late:
        pytest.fail("it hangs")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)

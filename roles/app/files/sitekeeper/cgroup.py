"""What the kernel says about the service's control group (version 2) and about one process.

Everything is read from files that the app's own user may read inside of its sandbox.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
PROC = Path("/proc")


def own_group(proc: Path = PROC, root: Path = Path("/sys/fs/cgroup")) -> Path | None:
    """Return the directory of this process's control group, or None where there is no version 2."""
    try:
        for line in (proc / "self/cgroup").read_text(encoding="ascii").splitlines():
            if line.startswith("0::"):
                group = root / line[3:].lstrip("/")
                return group if (group / "cgroup.procs").exists() else None
    except OSError:
        return None
    return None


def number(path: Path) -> int | None:
    """Return the number in a file of the kernel; None for ``max`` and for a file that is not there."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def table(path: Path) -> dict[str, int]:
    """Return the ``name number`` lines of a file of the kernel; empty where it is not there."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def counts_memory(group: Path) -> bool:
    """Tell whether the kernel counts and limits a group's memory: it does with the memory controller alone."""
    return (group / "memory.current").exists()


def limit(group: Path | None, otherwise: int) -> int | None:
    """Return the bytes above which the kernel acts: the lower of ``memory.high`` and ``memory.max``; None for none.

    Args:
        group: the service's.
        otherwise: the limit where the kernel has no memory controller.
    """
    if group is None or not counts_memory(group):
        return otherwise
    known = [value for name in ("memory.high", "memory.max") if (value := number(group / name)) is not None]
    return min(known, default=None)


def rss(pid: int | str, proc: Path = PROC) -> int:
    """Return the bytes of memory a process has in use; 0 when it is gone."""
    try:
        return int((proc / str(pid) / "statm").read_text(encoding="ascii").split()[1]) * PAGE
    except (OSError, IndexError, ValueError):
        return 0


def pss(pid: int, proc: Path = PROC) -> int | None:
    """Return the bytes of a process where shared pages count in parts; None when the kernel does not say."""
    try:
        for line in (proc / str(pid) / "smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None


def process_group(pid: int | str, proc: Path = PROC) -> int | None:
    """Return the process group of a process; None when it is gone."""
    try:
        text = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # proc(5): the second field is a name in brackets that may hold blanks and brackets itself
    return int(text.rpartition(")")[2].split()[2])


def pids(group: Path | None) -> list[int]:
    """Return the processes of a control group."""
    if group is None:
        return []
    try:
        return [int(pid) for pid in (group / "cgroup.procs").read_text(encoding="ascii").split()]
    except OSError:
        return []


def children_of(leader: int, among: Iterable[int], proc: Path = PROC) -> list[int]:
    """Return the processes of a worker's process group without the worker itself: what it started."""
    return [pid for pid in among if pid != leader and process_group(pid, proc) == leader]

"""A tree of code, the same on the controller and on the host: what belongs to it, and its digest."""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

#: https://www.sqlite.org/fileformat.html, section 1.3
SQLITE_MAGIC = b"SQLite format 3\0"


def excluded(relative: str, patterns: Sequence[str]) -> bool:
    """Tell whether the path or one of its parts matches one of the shell patterns."""
    return any(fnmatch.fnmatch(text, pattern) for text in (relative, *Path(relative).parts) for pattern in patterns)


def tree(root: Path, patterns: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Yield relative name and path of each file and link below root, sorted, without what is excluded.

    Sockets, pipes and devices are no code: a running app may have left some.
    """
    for directory, names, files in os.walk(root):
        here = Path(directory)
        inside = here.relative_to(root)
        links = [name for name in names if (here / name).is_symlink()]
        names[:] = sorted(n for n in names if n not in links and not excluded(str(inside / n), patterns))
        for name in sorted([*files, *links]):
            path = here / name
            if not excluded(str(inside / name), patterns) and (path.is_symlink() or path.is_file()):
                yield str(inside / name), path


def digest(root: Path, patterns: Sequence[str] = (), shared: Sequence[str] = ()) -> str:
    """Return a SHA-256 over names, executable bits and contents, but not over times or owners.

    Args:
        root: the tree.
        patterns: shell patterns of what is left out wherever it lies.
        shared: paths from the root that are data: they change all the time and make no new release.
    """
    total = hashlib.sha256()
    for name, path in tree(root, patterns):
        if any(name == data or name.startswith(f"{data}/") for data in shared):
            continue
        content = str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
        kind = "l" if path.is_symlink() else "x" if os.access(path, os.X_OK) else "f"
        total.update(f"{kind} {name}\0".encode() + hashlib.sha256(content).digest())
    return total.hexdigest()


def copy_file(path: Path, target: Path) -> None:
    """Copy one file or link; a SQLite database by its backup API, since a copy of a live one is often corrupt.

    Raises:
        ValueError: the database cannot be read.
    """
    if not path.is_symlink():
        with path.open("rb") as content:
            database = content.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC
        if database:
            try:
                with (
                    contextlib.closing(sqlite3.connect(path)) as live,
                    contextlib.closing(sqlite3.connect(target)) as copy,
                ):
                    live.backup(copy)
            except sqlite3.Error as error:
                raise ValueError(f"{path} is no usable database ({error}); name it in app_exclude") from error
            shutil.copystat(path, target)
            return
    shutil.copy2(path, target, follow_symlinks=False)

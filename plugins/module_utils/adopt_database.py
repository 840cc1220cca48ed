"""Copies of a live SQLite database that lose no row, and the proof of it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

#: A writer of the old app holds its lock much shorter.
BUSY_SECONDS = 20.0
FIRST_FAULTS = 3


class DatabaseError(Exception):
    """A database is damaged or cannot be copied; the text is for the operator."""


def _opened(path: Path, mode: str) -> contextlib.closing[sqlite3.Connection]:
    uri = f"file:{quote(str(path))}?mode={mode}"
    return contextlib.closing(sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None))


def copy(source: Path, target: Path) -> None:
    """Copy a database by SQLite's own backup, which takes what is in the write-ahead log along.

    The target becomes exactly the source, also when it was something before; it keeps its owner and its mode.

    Raises:
        DatabaseError: one of them cannot be opened, read or written.
    """
    if not target.exists():
        # Data of visitors: nobody else reads it, from its first byte on.
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        # For writing, because the log of a database that nobody has open has to be read in.
        with _opened(source, "rw") as live, _opened(target, "rw") as saved:
            # In one step: in several, each write of the app would begin the copy anew.
            live.backup(saved)
    except sqlite3.Error as error:
        raise DatabaseError(f"{source} cannot be copied to {target}: {error}") from error


def check(path: Path) -> None:
    """Let SQLite look through a whole database. Raises DatabaseError with what it finds."""
    try:
        with _opened(path, "rw") as opened:
            found = [str(row[0]) for row in opened.execute("PRAGMA integrity_check")]
    except sqlite3.Error as error:
        raise DatabaseError(f"{path} is damaged: {error}") from error
    if found != ["ok"]:
        raise DatabaseError(f"{path} is damaged: {'; '.join(found[:FIRST_FAULTS])}")


def counts(path: Path) -> dict[str, int]:
    """Return the number of rows of each table. Raises DatabaseError when it cannot be read."""
    try:
        with _opened(path, "rw") as opened:
            rows = opened.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
            names = [str(row[0]) for row in rows]
            quoted = {name: '"' + name.replace('"', '""') + '"' for name in names}
            return {name: opened.execute(f"SELECT count(*) FROM {quoted[name]}").fetchone()[0] for name in names}
    except sqlite3.Error as error:
        raise DatabaseError(f"{path} cannot be counted: {error}") from error


def schema(path: Path) -> list[tuple[str, ...]]:
    """Return what tables and the like a database has. Raises DatabaseError when it cannot be read."""
    try:
        with _opened(path, "rw") as opened:
            return opened.execute("SELECT type, name, sql FROM sqlite_master ORDER BY type, name").fetchall()
    except sqlite3.Error as error:
        raise DatabaseError(f"{path} cannot be read: {error}") from error


def fewer(before: dict[str, int], after: dict[str, int]) -> list[str]:
    """Name the tables that have fewer rows than before, or are gone."""
    return [
        f"{name} has {after.get(name, 'no')} rows and had {count}"
        for name, count in before.items()
        if after.get(name, -1) < count
    ]

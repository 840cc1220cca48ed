"""SQLite the careful way: write-ahead log, a bounded wait for locks, one connection for each request."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from flask import current_app, g

from currents import seed

BUSY_TIMEOUT_MS = 5000
PREPARE_TIMEOUT_SECONDS = 20.0
POLL_SECONDS = 0.05
SCHEMA_VERSION = 1
SCHEMA = (
    """CREATE TABLE markets (
        id INTEGER PRIMARY KEY,
        slug TEXT NOT NULL UNIQUE,
        title TEXT NOT NULL,
        category TEXT NOT NULL,
        tags TEXT NOT NULL,
        probability INTEGER NOT NULL CHECK (probability BETWEEN 1 AND 99),
        volume INTEGER NOT NULL CHECK (volume >= 0),
        closes_on TEXT NOT NULL
    )""",
    "CREATE INDEX markets_by_category ON markets (category)",
    """CREATE TABLE votes (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        market_id INTEGER NOT NULL REFERENCES markets (id),
        choice TEXT NOT NULL CHECK (choice IN ('yes', 'no')),
        voter TEXT NOT NULL,
        created_at REAL NOT NULL
    )""",
    "CREATE INDEX votes_by_market ON votes (market_id)",
    "CREATE INDEX votes_by_voter ON votes (voter)",
)


class Database:
    """The database file: how it is made, and how it is opened.

    The object keeps no connection, so nothing of SQLite's is ever carried over a fork.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._prepared = False

    def prepare(self) -> None:
        """Create and fill the database if that has not been done; safe for many processes at once.

        A lock file lets one process in at a time. The schema, the markets and the version number are one
        transaction: a process killed half-way leaves nothing behind.

        Raises:
            sqlite3.Error: The file is damaged, too new, or not to be opened.
            OSError: The directory is missing and cannot be made, or the lock was not free in time.
        """
        if self._prepared:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + PREPARE_TIMEOUT_SECONDS
        with _lock_file(self.path.with_name(self.path.name + ".setup.lock"), deadline):
            connection = _open(self.path, "rwc")
            try:
                _write_ahead_log(connection, deadline)
                _create(connection)
            finally:
                connection.close()
        self._prepared = True

    def connect(self, *, any_thread: bool = False) -> sqlite3.Connection:
        """Open a connection; the caller closes it.

        A file that has vanished is an error, never a reason to begin an empty one.

        Args:
            any_thread: Let a thread other than the opener use and close it.

        Raises:
            sqlite3.Error: The database cannot be opened or made.
        """
        try:
            self.prepare()
        except OSError as error:
            # Only the kind: an OSError's text holds a path, and this text reaches visitors of /health.
            raise sqlite3.OperationalError(f"unable to prepare the database: {type(error).__name__}") from error
        return _open(self.path, "rw", any_thread=any_thread)


def connection() -> sqlite3.Connection:
    """Return the connection of this request, opened at its first use."""
    if "database" not in g:
        database: Database = current_app.extensions["currents_database"]
        g.database = database.connect()
    opened: sqlite3.Connection = g.database
    return opened


def close(_error: BaseException | None = None) -> None:
    """Close the connection of this request, if one was opened. An open transaction is rolled back."""
    opened: sqlite3.Connection | None = g.pop("database", None)
    if opened is not None:
        opened.close()


@contextlib.contextmanager
def write(connection: sqlite3.Connection) -> Iterator[None]:
    """Run the block as one write transaction.

    ``BEGIN IMMEDIATE`` takes the write lock at once, where the busy timeout applies. A transaction that reads
    first and asks for the lock later fails with "database is locked" without any wait (sqlite.org/isolation.html).
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def is_busy(error: sqlite3.Error) -> bool:
    """Tell whether another connection holds the lock, so that the same request may succeed later."""
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)


def _open(path: Path, mode: str, *, any_thread: bool = False) -> sqlite3.Connection:
    opened = sqlite3.connect(
        f"file:{quote(str(path))}?mode={mode}",
        uri=True,
        timeout=BUSY_TIMEOUT_MS / 1000,
        isolation_level=None,
        check_same_thread=not any_thread,
    )
    opened.row_factory = sqlite3.Row
    opened.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    opened.execute("PRAGMA foreign_keys = ON")
    # FULL: a vote that was answered with its number survives a power cut, not only a crash of the app.
    opened.execute("PRAGMA synchronous = FULL")
    return opened


def _write_ahead_log(connection: sqlite3.Connection, deadline: float) -> None:
    if connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
        return
    while True:
        # The change of mode needs the file to itself and does not wait for the busy timeout.
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() >= deadline:
                raise
        time.sleep(POLL_SECONDS)


def _create(connection: sqlite3.Connection) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise sqlite3.DatabaseError(
            f"its schema is version {version}, newer than this release knows ({SCHEMA_VERSION}): deploy a newer release"
        )
    if version == SCHEMA_VERSION:
        return
    with write(connection):
        for statement in SCHEMA:
            connection.execute(statement)
        connection.executemany(
            "INSERT INTO markets (slug, title, category, tags, probability, volume, closes_on)"
            " VALUES (:slug, :title, :category, :tags, :probability, :volume, :closes_on)",
            seed.markets(),
        )
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


@contextlib.contextmanager
def _lock_file(path: Path, deadline: float) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise TimeoutError(f"another process still holds {path}") from None
            time.sleep(POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)

"""Copies of a live database: whole, proven, and what is damaged is refused."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing

import pytest
from ansible.module_utils.adopt_database import DatabaseError, check, copy, counts, fewer, schema


@pytest.fixture
def live(tmp_path):
    """A database in use: its last rows are only in the write-ahead log."""
    path = tmp_path / "site.db"
    with closing(sqlite3.connect(path)) as opened:
        opened.execute("PRAGMA journal_mode = WAL")
        opened.execute("CREATE TABLE votes (voter TEXT)")
        opened.executemany("INSERT INTO votes VALUES (?)", [(str(number),) for number in range(500)])
        opened.commit()
        yield path


def test_copy_has_the_rows_of_the_log_and_is_for_its_owner_alone(live, tmp_path):
    target = tmp_path / "copy.db"
    copy(live, target)
    check(target)
    assert counts(target) == counts(live) == {"votes": 500}
    assert schema(target) == schema(live)
    assert target.stat().st_mode & 0o777 == 0o600


def test_copy_over_another_database_is_exact_and_keeps_the_mode(live, tmp_path):
    target = tmp_path / "copy.db"
    with closing(sqlite3.connect(target)) as other:
        other.execute("CREATE TABLE old (x)")
    target.chmod(0o640)
    copy(live, target)
    assert counts(target) == {"votes": 500}
    assert target.stat().st_mode & 0o777 == 0o640


def test_copy_while_somebody_writes_is_sound_and_lacks_no_row_that_was_there(live, tmp_path):
    done = threading.Event()

    def write():
        with closing(sqlite3.connect(live, timeout=20)) as opened:
            while not done.is_set():
                opened.execute("INSERT INTO votes VALUES ('more')")
                opened.commit()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(5):
            before = counts(live)
            target = tmp_path / f"copy{number}.db"
            copy(live, target)
            check(target)
            assert fewer(before, counts(target)) == []
    finally:
        done.set()
        writer.join()


def test_damaged_database_is_refused_with_what_sqlite_says(live, tmp_path):
    target = tmp_path / "copy.db"
    copy(live, target)
    content = bytearray(target.read_bytes())
    content[-4096:] = b"\xff" * 4096
    target.write_bytes(content)
    with pytest.raises(DatabaseError, match="is damaged"):
        check(target)


def test_what_is_no_database_or_is_not_there_is_refused(tmp_path):
    (tmp_path / "text.db").write_text("no database" * 100)
    for name in ("text.db", "absent.db"):
        with pytest.raises(DatabaseError, match=name):
            copy(tmp_path / name, tmp_path / f"copy-of-{name}")
    assert not (tmp_path / "absent.db").exists()


def test_missing_rows_and_tables_are_named():
    assert fewer({"a": 2, "b": 1, "c": 0}, {"a": 1, "b": 5}) == ["a has 1 rows and had 2", "c has no rows and had 0"]
    assert fewer({}, {"a": 1}) == []

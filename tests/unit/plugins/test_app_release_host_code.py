"""Code that lies on the host: what of it counts as a change, and how it is copied, databases in use included."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from pathlib import Path

import pytest

from plugins.module_utils.code_tree import SQLITE_MAGIC, copy_file, digest, tree
from tests.polling import PATIENCE_SECONDS


def test_the_host_digest_ignores_shared_paths_and_what_is_excluded(code):
    (code / "data").mkdir()
    (code / "__pycache__").mkdir()
    before = digest(code, ["__pycache__"], ["data", "app.db"])
    (code / "data" / "rows").write_text("1")
    (code / "app.db").write_text("1")
    (code / "__pycache__" / "app.pyc").write_text("1")
    assert digest(code, ["__pycache__"], ["data", "app.db"]) == before
    (code / "data.py").write_text("")
    assert digest(code, ["__pycache__"], ["data", "app.db"]) != before


@pytest.mark.parametrize(
    "change",
    [lambda p: p.write_text("app = 2\n"), lambda p: p.chmod(0o755), lambda p: p.rename(p.with_name("b.py"))],
    ids=["content", "executable bit", "name"],
)
def test_the_host_digest_sees_what_the_app_would(code, change):
    before = digest(code, [], [])
    os.utime(code / "app.py", (1, 1))
    assert digest(code, [], []) == before
    change(code / "app.py")
    assert digest(code, [], []) != before


def test_host_patterns_hold_for_whole_paths_as_those_of_the_controller_do(code):
    (code / "docs" / "internal").mkdir(parents=True)
    (code / "docs" / "internal" / "plan.md").write_text("")
    (code / "docs" / "index.md").write_text("")
    (code / "docs" / "latest").symlink_to("internal")
    names = [name for name, _ in tree(code, ["docs/internal"])]
    assert names == ["app.py", "docs/index.md", "docs/latest", "static/style.css"]


def test_a_database_in_use_is_copied_whole(tmp_path):
    live = tmp_path / "app.db"
    with contextlib.closing(sqlite3.connect(live)) as first:
        first.execute("PRAGMA journal_mode=WAL")
        first.executescript("CREATE TABLE a (x); CREATE TABLE b (x);")
    live.chmod(0o640)
    stop, started = threading.Event(), threading.Event()

    def write():
        with contextlib.closing(sqlite3.connect(live)) as connection:
            while not stop.is_set():
                with connection:
                    connection.execute("INSERT INTO a VALUES (randomblob(4000))")
                    connection.execute("INSERT INTO b VALUES (1)")
                started.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert started.wait(PATIENCE_SECONDS)
        for number in range(5):
            copy_file(live, tmp_path / f"copy{number}.db")
    finally:
        stop.set()
        writer.join(PATIENCE_SECONDS)
    for number in range(5):
        copy = tmp_path / f"copy{number}.db"
        with contextlib.closing(sqlite3.connect(copy)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            (a,), (b,) = (connection.execute(f"SELECT count(*) FROM {t}").fetchone() for t in "ab")
        assert a == b > 0
        assert copy.stat().st_mode & 0o777 == 0o640


def test_rows_that_are_only_in_the_write_ahead_log_are_copied(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES (7)")
        connection.commit()
        assert (tmp_path / "app.db-wal").stat().st_size > 0
        copy_file(tmp_path / "app.db", tmp_path / "copy.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        assert copy.execute("SELECT x FROM t").fetchone() == (7,)


def test_a_file_that_only_claims_to_be_a_database_is_named(tmp_path):
    (tmp_path / "broken.db").write_bytes(SQLITE_MAGIC + b"nonsense" * 500)
    with pytest.raises(ValueError, match=r"broken\.db is no usable database .*; name it in app_exclude"):
        copy_file(tmp_path / "broken.db", tmp_path / "copy.db")


def test_other_files_keep_time_and_mode_and_links_stay_links(tmp_path):
    (tmp_path / "run.sh").write_text("x")
    (tmp_path / "run.sh").chmod(0o755)
    os.utime(tmp_path / "run.sh", (5, 5))
    (tmp_path / "link").symlink_to("nowhere")
    copy_file(tmp_path / "run.sh", tmp_path / "copy")
    copy_file(tmp_path / "link", tmp_path / "link2")
    assert ((tmp_path / "copy").stat().st_mtime, (tmp_path / "copy").stat().st_mode & 0o777) == (5, 0o755)
    assert (tmp_path / "link2").readlink() == Path("nowhere")

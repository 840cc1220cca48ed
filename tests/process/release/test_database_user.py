"""Databases are saved and restored as the app's user: the files are its own, and root's rights lead nowhere."""

from __future__ import annotations

import os
import pwd
import shutil
import sqlite3
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from siterelease import database, host

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a process back to its user")

USER = pwd.getpwnam("nobody")


def fill(path, rows):
    with sqlite3.connect(path) as live:
        live.execute("PRAGMA journal_mode=WAL")
        live.execute("CREATE TABLE votes (id INTEGER)")
        live.executemany("INSERT INTO votes VALUES (?)", [(number,) for number in range(rows)])
    live.close()
    os.chown(path, USER.pw_uid, USER.pw_gid)
    return path


def owners(top):
    return {path.name: (path.lstat().st_uid, path.lstat().st_gid) for path in top.rglob("*")}


@pytest.fixture
def theirs(settings):
    """A site whose app runs as another user than root; pytest's own directories are closed to that one."""
    top = Path(tempfile.mkdtemp(prefix="sitekeeper-", dir="/tmp"))
    top.chmod(0o755)
    data = top / "data"
    data.mkdir(mode=0o750)
    os.chown(data, USER.pw_uid, USER.pw_gid)
    yield replace(settings, user=USER.pw_name, data_dir=data, state=top / "state", databases=())
    shutil.rmtree(top)


def test_what_a_save_and_a_restore_leave_is_the_app_s_own(theirs):
    path = fill(theirs.data_dir / "app.db", 2)
    name = database.save(theirs, "x", "")
    assert owners(theirs.backups / name) == {"app.db": (USER.pw_uid, USER.pw_gid)}
    database.restore(theirs, name)
    assert owners(theirs.data_dir) == {"app.db": (USER.pw_uid, USER.pw_gid)}
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.fixture
def group():
    """A group that root is in and the app's user is not."""
    before, another = os.getgroups(), 54321
    os.setgroups([*before, another])
    yield another
    os.setgroups(before)


def test_what_only_a_group_of_root_may_read_is_not_counted(theirs, group):
    path = theirs.data_dir.parent / "app.db"
    with sqlite3.connect(path) as live:
        live.execute("CREATE TABLE votes (id INTEGER)")
    live.close()
    path.chmod(0o640)
    os.chown(path, 0, group)
    with pytest.raises(host.ReleaseError, match="unable to open database file"):
        database.work(theirs, [], [path])


def test_a_directory_that_the_app_replaced_by_a_link_leads_a_restore_to_no_file_of_root(theirs):
    theirs = replace(theirs, databases=("inside/app.db",))
    inside = theirs.data_dir / "inside"
    inside.mkdir()
    os.chown(inside, USER.pw_uid, USER.pw_gid)
    fill(inside / "app.db", 2)
    name = database.save(theirs, "x", "")
    shutil.rmtree(inside)
    of_root = theirs.data_dir.parent / "of-root/app.db"
    of_root.parent.mkdir(mode=0o755)
    of_root.write_text("root's own")
    inside.symlink_to(of_root.parent)
    with pytest.raises(host.ReleaseError, match="unable to open database file"):
        database.restore(theirs, name)
    assert of_root.read_text() == "root's own"

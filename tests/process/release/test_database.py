"""Databases as apps leave them: several of one name, in the middle of a transaction, damaged, or not there."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from siterelease import database, host, snapshot
from siterelease.rollback import rollback
from siterelease.switch import switch

pytestmark = pytest.mark.usefixtures("systemd", "app")


def fill(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(path) as live:
        live.execute("CREATE TABLE votes (id INTEGER)")
        live.executemany("INSERT INTO votes VALUES (?)", [(number,) for number in range(rows)])
    live.close()
    return path


def change(path, words):
    with sqlite3.connect(path) as live:
        live.execute(words)
    live.close()


def rows(path):
    live = sqlite3.connect(path)
    try:
        return live.execute("SELECT count(*) FROM votes").fetchone()[0]
    finally:
        live.close()


def deploy(settings, releases):
    return switch(settings, releases, "me@here", retry_bad=False, check=False)


def test_two_databases_of_one_name_are_both_saved_counted_and_restored(settings, releases, build, running):
    settings = replace(settings, databases=("a/app.db", "b/app.db"))
    one, other = fill(settings.data_dir / "a/app.db", 1), fill(settings.data_dir / "b/app.db", 5)
    build("second")
    deploy(settings, releases)
    change(one, "INSERT INTO votes VALUES (7)")
    change(other, "DELETE FROM votes")
    outcome = rollback(settings, releases, "", "me", restore=True, check=False)
    assert outcome.facts["lost_rows"] == {"a/app.db:votes": 1}
    assert (rows(one), rows(other)) == (1, 5)


def test_a_backup_of_an_earlier_version_is_still_counted_and_restored(settings):
    """It lies flat, by the file's name alone."""
    path = fill(settings.data_dir / "deep/app.db", 3)
    kept = settings.backups / "old"
    saved = fill(kept / "app.db", 1)
    settings.backups.joinpath("old.json").write_text(
        f'{{"at": "", "from": {{"app.db": "{path}"}}, "rows": {{"{saved}": {{"votes": 1}}}}}}'
    )
    assert database.lost_rows(settings, "old") == {"app.db:votes": 2}
    database.restore(settings, "old")
    assert rows(path) == 1


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), host.ReleaseError("it cannot be copied")])
def test_a_rollback_that_cannot_save_or_restore_starts_the_app_again(
    settings, releases, build, systemd, running, monkeypatch, fault
):
    fill(settings.data_dir / "app.db", 1)
    build("second")
    deploy(settings, releases)

    def fails(*words, **named):
        raise fault

    monkeypatch.setattr(database, "save", fails)
    systemd.asked.clear()
    with pytest.raises(type(fault)):
        rollback(settings, releases, "", "me", restore=True, check=False)
    assert systemd.asked == ["systemctl stop currents.service", "systemctl start --no-block currents.service"]
    assert releases.pointed("current") == "second"


def test_a_disk_that_is_full_after_the_database_went_back_does_not_leave_the_app_stopped(
    settings, releases, build, systemd, running, monkeypatch
):
    """All that needs room comes before the app is stopped."""
    fill(settings.data_dir / "app.db", 1)
    build("second")
    deploy(settings, releases)
    monkeypatch.setattr(snapshot, "take", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    systemd.asked.clear()
    with pytest.raises(OSError, match="No space"):
        rollback(settings, releases, "", "me", restore=True, check=False)
    assert systemd.asked == []


def test_saves_that_fail_push_out_no_good_backup_and_leave_nothing(settings):
    path = fill(settings.data_dir / "app.db", 1)
    good = [database.save(settings, f"good{number}", "") for number in range(4)]
    sound = path.read_bytes()
    path.write_bytes(sound[:100] + b"\xff" * (len(sound) - 100))
    for number in range(5):
        with pytest.raises(host.ReleaseError):
            database.save(settings, f"failed{number}", "")
    path.write_bytes(sound)
    good.append(database.save(settings, "later", ""))
    assert sorted(one.name for one in settings.backups.iterdir()) == sorted([*good, *(f"{one}.json" for one in good)])


def test_what_a_power_cut_left_of_a_save_does_not_count_and_goes_with_the_next(settings):
    fill(settings.data_dir / "app.db", 1)
    good = [database.save(settings, f"good{number}", "") for number in range(4)]
    for number in range(5):
        (settings.backups / f"2099-01-01T00000{number}Z-cut").mkdir(parents=True)
    (settings.backups / "of the operator").mkdir()
    good.append(database.save(settings, "later", ""))
    assert {one.name for one in settings.backups.iterdir() if one.is_dir()} == {*good, "of the operator"}


@pytest.mark.parametrize("failing", ["work", "its description"])
def test_a_save_that_is_refused_or_finds_no_room_leaves_no_directory(settings, monkeypatch, failing):
    fill(settings.data_dir / "app.db", 1)
    if failing == "work":
        monkeypatch.setattr(database, "work", lambda *_: (_ for _ in ()).throw(host.ReleaseError("no")))
    else:
        monkeypatch.setattr(database.json, "dumps", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "no room")))
    with pytest.raises((host.ReleaseError, OSError)):
        database.save(settings, "x", "")
    assert list(settings.backups.iterdir()) == []


def killed_in_a_transaction(path):
    """Let a process change the database and die before it commits: its journal is hot."""
    words = (
        "import os, sqlite3, sys; live = sqlite3.connect(sys.argv[1]); live.execute('PRAGMA cache_size=2'); "
        "live.execute('UPDATE votes SET id = hex(randomblob(200))'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", words, str(path)], check=False)
    journal = path.with_name(f"{path.name}-journal")
    assert journal.stat().st_size
    return journal


def test_an_app_that_was_killed_in_a_transaction_can_be_deployed(settings, releases, build, running):
    path = fill(settings.data_dir / "app.db", 3000)
    killed_in_a_transaction(path)
    build("second")
    name = deploy(settings, releases).facts["backup"]
    copy = sqlite3.connect(settings.backups / name / "app.db")
    assert copy.execute("SELECT count(*), max(length(id)) FROM votes").fetchone() == (3000, 4), "as before it"
    copy.close()


def test_a_journal_is_not_rolled_back_into_what_was_restored(settings):
    path = fill(settings.data_dir / "app.db", 3000)
    name = database.save(settings, "x", "")
    journal = killed_in_a_transaction(path)
    database.restore(settings, name)
    assert not journal.exists()
    assert rows(path) == 3000


def killed_with_rows_in_its_log(path, count):
    """Let a process insert rows and die: they stand in the write-ahead log alone, where a reader would find them."""
    words = (
        "import os, sqlite3, sys; live = sqlite3.connect(sys.argv[1]); "
        "live.executemany('INSERT INTO votes VALUES (?)', [(0,)] * int(sys.argv[2])); live.commit(); "
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", words, str(path), str(count)], check=False)
    left = [path.with_name(f"{path.name}{end}") for end in ("-wal", "-shm")]
    assert all(one.stat().st_size for one in left)
    return left


def test_a_log_that_stays_behind_brings_no_row_into_what_was_restored(settings):
    path = fill(settings.data_dir / "app.db", 1)
    change(path, "PRAGMA journal_mode=WAL")
    name = database.save(settings, "x", "")
    left = killed_with_rows_in_its_log(path, 4)
    database.restore(settings, name)
    there = [one.name for one in left if one.exists()]
    assert rows(path) == 1
    assert there == []


def test_a_database_without_a_journal_is_opened_for_reading_alone(settings):
    path = fill(settings.data_dir / "app.db", 1)
    before = path.stat()
    (settings.data_dir / "app.db-journal").touch()
    database.save(settings, "x", "")
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert (settings.data_dir / "app.db-journal").exists(), "an app may truncate its journal and keep it"


def test_a_named_database_that_is_not_there_is_said_by_name(settings, releases, build, running):
    settings = replace(settings, databases=("ap.db", "app.db"))
    fill(settings.data_dir / "app.db", 1)
    build("second")
    said = deploy(settings, releases).text
    assert said == f"second is current; not saved, for it is not in {settings.data_dir}: ap.db (release_databases)"


def test_before_the_first_start_no_database_is_missed(settings, releases, build, systemd):
    systemd.active = "inactive"
    build("one")
    assert deploy(replace(settings, databases=("app.db",)), releases).text == "one is current"


def test_a_file_that_its_app_takes_away_in_the_middle_of_the_look_is_no_database(settings, monkeypatch):
    live, passing = fill(settings.data_dir / "app.db", 1), settings.data_dir / "app.db-wal"
    passing.touch()
    looked_at = Path.is_file

    def and_gone(self):
        there = looked_at(self)
        if self == passing:
            self.unlink()
        return there

    monkeypatch.setattr(Path, "is_file", and_gone)
    assert database.found(settings) == [live]

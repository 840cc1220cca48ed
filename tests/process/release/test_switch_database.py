"""What a deploy and a rollback do with the database, which a process of their own saves and restores."""

from __future__ import annotations

import fcntl
import sqlite3

import pytest

from siterelease import database
from siterelease.host import ReleaseError
from siterelease.rollback import rollback
from siterelease.switch import switch

pytestmark = pytest.mark.usefixtures("systemd", "app")


def deploy(settings, releases, retry_bad=False, check=False):
    return switch(settings, releases, "me@here", retry_bad=retry_bad, check=check)


def is_locked(path):
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_the_database_is_restored_only_when_asked_and_what_is_lost_is_said(settings, releases, build, systemd, running):
    path = settings.data_dir / "app.db"
    with sqlite3.connect(path) as live:
        live.execute("CREATE TABLE votes (id INTEGER)")
        live.execute("INSERT INTO votes VALUES (1)")
    live.close()
    build("second")
    deploy(settings, releases)
    with sqlite3.connect(path) as live:
        live.executemany("INSERT INTO votes VALUES (?)", [(2,), (3,)])
    live.close()
    said = rollback(settings, releases, "", "me", restore=False, check=True)
    assert "rows lost by that: 2 of app.db:votes" in said.text
    assert "stays as it is" in said.text
    original = releases.point

    def watched(link, name):
        original(link, name)
        systemd.asked.append(f"held back: {is_locked(settings.start_hold)}, {name} is {link}")

    releases.point = watched
    rollback(settings, releases, "", "me", restore=True, check=False)
    assert not is_locked(settings.start_hold)
    live = sqlite3.connect(path)
    assert live.execute("SELECT count(*) FROM votes").fetchone() == (1,)
    live.close()
    assert systemd.asked.index("systemctl stop currents.service") < systemd.asked.index(
        "held back: True, one is current"
    )
    saved = [name for name in settings.backups.iterdir() if name.is_dir()]
    assert len(saved) == 2, "the newer state was saved too"
    assert database.found(settings) == [path]


def test_a_refused_settings_change_keeps_the_backup_of_the_release_that_serves(
    settings, releases, build, systemd, running
):
    saved = settings.data_dir / "app.db"
    with sqlite3.connect(saved) as live:
        live.execute("CREATE TABLE votes (id INTEGER)")
    live.close()
    build("second")
    backup = deploy(settings, releases).facts["backup"]
    settings.inputs[0].write_text("A=broken\n")
    systemd.failing["restart currents-trial.service"] = "no"
    for name in ("", "third", "fourth", "fifth", "sixth", "seventh", "eighth"):
        if name:
            build(name)
        with pytest.raises(ReleaseError, match="second serves as before"):
            deploy(settings, releases)
    systemd.failing.clear()
    assert releases.backup_before("second") == backup
    assert rollback(settings, releases, "", "me", restore=True, check=False).facts["backup"] == backup

"""A refused deploy leaves the settings that the running release has."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from siterelease import snapshot
from siterelease.host import ReleaseError
from siterelease.live import take_back
from siterelease.rollback import rollback
from siterelease.switch import switch

pytestmark = pytest.mark.usefixtures("systemd", "app")


def deploy(settings, releases):
    return switch(settings, releases, "me@here", retry_bad=False, check=False)


@pytest.fixture
def env(settings):
    return settings.inputs[0]


@pytest.fixture
def live(settings, releases, build, running, env):
    """The release two, live with settings of its own."""
    env.write_text("A=2\n")
    env.chmod(0o600)
    build("two")
    deploy(settings, releases)


@pytest.mark.parametrize("name", ["two", "three"])
def test_a_refused_deploy_puts_the_settings_back(settings, releases, build, systemd, live, env, name):
    env.write_text("A=broken\n")
    env.chmod(0o644)
    if name == "three":
        build(name)
    systemd.failing["restart currents-trial.service"] = "Job failed"
    with pytest.raises(ReleaseError, match="settings on the host are those of two again"):
        deploy(settings, releases)
    assert env.read_text() == "A=2\n"
    assert env.stat().st_mode & 0o777 == 0o600
    assert releases.pointed("current") == "two"


def test_settings_that_come_with_a_release_marked_bad_go_too(settings, releases, build, live, env):
    build("three")
    releases.write("three", "BAD", {"why": "it leaks"})
    env.write_text("A=3\n")
    with pytest.raises(ReleaseError, match="marked bad: it leaks"):
        deploy(settings, releases)
    assert env.read_text() == "A=2\n"


def test_a_release_that_is_taken_back_takes_its_settings_with_it(settings, releases, build, live, env):
    env.write_text("A=3\n")
    build("three")
    deploy(settings, releases)
    assert env.read_text() == "A=3\n"
    take_back(settings, releases, "three", "two", "it died")
    assert env.read_text() == "A=2\n"


def test_after_a_rollback_the_settings_of_now_are_those_of_its_release(settings, releases, build, systemd, live, env):
    env.write_text("A=3\n")
    build("three")
    deploy(settings, releases)
    rollback(settings, releases, "two", "me", restore=False, check=False)
    build("four")
    env.write_text("A=4\n")
    systemd.failing["restart currents-trial.service"] = "Job failed"
    with pytest.raises(ReleaseError):
        deploy(settings, releases)
    assert env.read_text() == "A=3\n"


def test_what_a_host_of_before_lacks_is_made_up_for_by_a_run_that_changes_nothing(settings, releases, live):
    snapshot.prune(settings, [])
    assert not snapshot.has(settings, "two")
    assert not deploy(settings, releases).changed
    assert snapshot.has(settings, "two")


def test_files_that_came_are_removed_ones_that_went_come_back_and_systemd_reads_its_unit_again(
    settings, systemd, tmp_path
):
    code, unit = tmp_path / "etc/sitekeeper", tmp_path / "etc/currents.service"
    code.mkdir()
    (code / "guard.py").write_text("one")
    unit.write_text("[Service]\n")
    settings = replace(settings, inputs=(code, unit))
    snapshot.take(settings, "one")
    assert snapshot.directory(settings).stat().st_mode & 0o777 == 0o700
    assert not snapshot.put_back(settings, "one")
    (code / "guard.py").unlink()
    (code / "extra.py").write_text("two")
    unit.write_text("[Service]\nUser=nobody\n")
    assert snapshot.put_back(settings, "one")
    assert [path.name for path in code.iterdir()] == ["guard.py"]
    assert unit.read_text() == "[Service]\n"
    assert systemd.asked == ["systemctl daemon-reload"]


def test_a_release_without_a_snapshot_changes_nothing(settings, env):
    assert not snapshot.put_back(settings, "")
    assert not snapshot.put_back(settings, "one")
    assert env.read_text() == "A=1\n"


def test_only_snapshots_of_releases_that_are_there_stay(settings, releases, build, live, env):
    for number in (3, 4, 5):
        env.write_text(f"A={number}\n")
        build(f"r{number}")
        deploy(settings, releases)
    kept = {path.name for path in snapshot.directory(settings).iterdir()}
    assert kept <= {one.name for one in releases.all()}
    assert "r5" in kept


@pytest.fixture
def socket(settings, tmp_path):
    """The socket unit, which is open as it stands on the disk."""
    path = tmp_path / "etc/currents.socket"
    path.write_text("ListenStream=5555\n")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    settings.socket_record.write_text(f"{digest}  {path}\n")
    return path


@pytest.fixture
def with_socket(settings, socket):
    return replace(settings, inputs=(*settings.inputs, socket))


def test_a_refused_deploy_puts_the_port_back_and_systemd_reads_it_again(systemd, socket, with_socket):
    snapshot.take(with_socket, "one")
    socket.write_text("ListenStream=6666\n")
    assert snapshot.put_back(with_socket, "one")
    assert socket.read_text() == "ListenStream=5555\n"
    assert systemd.asked == ["systemctl daemon-reload"]


def test_a_port_that_is_open_already_stays_when_the_watch_takes_its_release_back(systemd, socket, with_socket):
    """The front may have the old one by now: after a reboot both would want it."""
    snapshot.take(with_socket, "one")
    socket.write_text("ListenStream=6666\n")
    digest = hashlib.sha256(socket.read_bytes()).hexdigest()
    with_socket.socket_record.write_text(f"{digest}  {socket}\n")
    with_socket.inputs[0].write_text("A=2\n")
    assert snapshot.put_back(with_socket, "one")
    assert (with_socket.inputs[0].read_text(), socket.read_text()) == ("A=1\n", "ListenStream=6666\n")


def test_without_a_word_of_the_open_port_its_file_stays(socket, with_socket):
    snapshot.take(with_socket, "one")
    with_socket.socket_record.unlink()
    socket.write_text("ListenStream=6666\n")
    assert not snapshot.put_back(with_socket, "one")


def test_what_an_older_version_did_not_keep_is_not_deleted(settings, socket, with_socket, tmp_path):
    """Its snapshots know nothing of the socket, nor of a directory that came later."""
    snapshot.take(settings, "one")
    code = tmp_path / "etc/later"
    code.mkdir()
    (code / "guard.py").write_text("one")
    assert not snapshot.put_back(replace(with_socket, inputs=(*with_socket.inputs, code)), "one")
    assert (socket.exists(), (code / "guard.py").exists()) == (True, True)

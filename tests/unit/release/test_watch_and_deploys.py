"""A release is watched while the next one is deployed, and for as long as it is current."""

from __future__ import annotations

import fcntl
import json
from contextlib import contextmanager

import pytest

from siterelease import host, snapshot, watch
from siterelease.host import ReleaseError
from siterelease.switch import switch

pytestmark = pytest.mark.usefixtures("app")


def deploy(settings, releases, hold=False):
    return switch(settings, releases, "me@here", retry_bad=False, check=False, hold=hold)


@pytest.fixture
def watched(settings, releases, build, systemd, running):
    """The release second, which is live and watched."""
    build("second")
    deploy(settings, releases)
    systemd.asked.clear()


def stays_watched(settings, systemd):
    watches = json.loads(settings.watched.read_text()) == {"release": "second", "previous": "one"}
    return watches and not any(words.startswith("systemctl stop currents-watch") for words in systemd.asked)


def test_a_deploy_that_is_refused_leaves_the_watch_of_what_serves(settings, releases, build, systemd, watched):
    build("third")
    systemd.failing["start currents-task.service"] = "no"
    with pytest.raises(ReleaseError, match="second serves as before"):
        deploy(settings, releases)
    assert stays_watched(settings, systemd)


def test_changed_settings_leave_the_watch(settings, releases, systemd, watched):
    settings.inputs[0].write_text("A=2\n")
    deploy(settings, releases)
    assert stays_watched(settings, systemd)


def test_a_release_that_waits_for_its_turn_leaves_the_watch_of_what_serves(settings, releases, build, systemd, watched):
    build("third")
    assert deploy(settings, releases, hold=True).facts["pending"]
    assert stays_watched(settings, systemd)


def test_what_cannot_be_switched_to_on_a_full_disk_leaves_the_watch(
    settings, releases, build, systemd, watched, monkeypatch
):
    build("third")
    monkeypatch.setattr(snapshot, "take", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(ReleaseError, match="third was not switched to"):
        deploy(settings, releases)
    assert stays_watched(settings, systemd)


def test_the_next_release_is_watched_in_its_place(settings, releases, build, systemd, watched, monkeypatch):
    show = systemd.show
    at_work = {"MainPID": "4711"}
    monkeypatch.setattr(
        host, "show", lambda unit, *names: {**show(unit), **(at_work if unit == settings.watch_unit else {})}
    )
    build("third")
    deploy(settings, releases)
    order = [words for words in systemd.asked if "currents-watch" in words or "restart currents.service" in words]
    assert order == [
        "systemctl stop currents-watch.service",
        "systemctl reset-failed currents-watch.service",
        "systemctl enable --now --quiet --no-reload currents-watch.service",
        "systemctl restart currents.service",
    ]
    assert json.loads(settings.watched.read_text()) == {"release": "third", "previous": "second"}


def test_many_deploys_in_a_short_time_are_all_watched(settings, releases, build, systemd, running, monkeypatch):
    """Seen with systemd 257: the sixth start within StartLimitIntervalSec fails, also after a daemon-reload."""
    starts, run = [], systemd.run

    def limited(argv, seconds):
        words = " ".join(argv)
        if f"reset-failed {settings.watch_unit}" in words:
            starts.clear()
        if settings.watch_unit in words and "enable --now" in words:
            starts.append(words)
            if len(starts) > 5:
                return 1, "start request repeated too quickly"
        return run(argv, seconds)

    monkeypatch.setattr(host, "run", limited)
    for number in range(7):
        build(f"number-{number}")
        assert deploy(settings, releases).facts["watched_seconds"] == 60


def test_a_release_that_became_well_while_the_watch_waited_for_a_deploy_stays(
    settings, releases, systemd, watched, monkeypatch
):
    """A restart for the deploy itself can be what it saw: whoever has the lock looks once more."""
    ill = {"": host.Answer(503, b'{"problem": "starts"}', "")}
    ask = host.ask
    monkeypatch.setattr(host, "ask", lambda address, path, seconds=1.0: ill.get("") or ask(address, path, seconds))
    moment = [0.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: moment[0])
    monkeypatch.setattr(watch.time, "sleep", lambda seconds: moment.__setitem__(0, moment[0] + seconds))
    lock = host.lock

    def waits(path):
        ill.clear()
        return lock(path)

    monkeypatch.setattr(host, "lock", waits)
    assert watch.watch(settings, releases, settings.run / "lock") == "second is good"
    assert releases.pointed("current") == "second"


@pytest.fixture
def deploying(settings):
    """Another run has the deploy lock of the site, and has said so as the module deploy_lock does."""

    @contextmanager
    def begin(token):
        with (settings.run / "sitekeeper/currents.deploy.lock").open("w") as held:
            json.dump({"token": token, "who": "ann", "from": "desk", "since": "12:00", "what": "deploy.yml"}, held)
            held.flush()
            fcntl.flock(held, fcntl.LOCK_EX)
            yield

    return begin


def taken_back_by_the_watch(settings, releases):
    """Let the watch find the release second bad and take it back."""
    releases.mark_bad("second", "not well for 15 s")
    assert watch.watch(settings, releases, settings.run / "lock").startswith("second was taken back")


def test_a_deploy_whose_settings_a_take_back_has_replaced_does_not_go_on_without_them(
    settings, releases, build, watched, deploying
):
    """The new code would go live with the settings of the release before the last."""
    env = settings.inputs[0]
    env.write_text("A=2\n")
    deploy(settings, releases)
    with deploying("this run"):
        env.write_text("A=mended\n")
        build("third")
        taken_back_by_the_watch(settings, releases)
        assert env.read_text() == "A=1\n"
        with pytest.raises(ReleaseError, match=r"settings of this deploy were replaced meanwhile\. Run it again"):
            deploy(settings, releases)
        assert (releases.pointed("current"), releases.is_bad("third")) == ("one", False)
    with deploying("the next run"):
        env.write_text("A=mended\n")
        deploy(settings, releases)
    assert (releases.pointed("current"), env.read_text()) == ("third", "A=mended\n")


def test_a_take_back_in_a_run_that_died_is_no_matter_to_the_next(settings, releases, build, watched, deploying):
    settings.inputs[0].write_text("A=2\n")
    deploy(settings, releases)
    with deploying("a run that dies"):
        taken_back_by_the_watch(settings, releases)
    with deploying("the next run"):
        build("third")
        assert deploy(settings, releases).changed
    assert not settings.replaced.exists()


@pytest.mark.parametrize("when", ["nobody deploys", "nothing was replaced"])
def test_any_other_take_back_leaves_no_note(settings, releases, watched, deploying, when):
    if when == "nobody deploys":
        settings.inputs[0].write_text("A=2\n")
        deploy(settings, releases)
        taken_back_by_the_watch(settings, releases)
    else:
        with deploying("this run"):
            taken_back_by_the_watch(settings, releases)
    assert not settings.replaced.exists()

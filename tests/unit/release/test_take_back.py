"""What a take-back achieves is what is said of it, and one that is cut off is finished."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from siterelease import host
from siterelease.host import ReleaseError
from siterelease.live import take_back
from siterelease.releases import BAD
from siterelease.rollback import rollback
from siterelease.switch import switch
from siterelease.watch import watch

pytestmark = pytest.mark.usefixtures("app")


def deploy(settings, releases, check=False):
    return switch(settings, releases, "me@here", retry_bad=False, check=check)


def test_a_site_that_is_down_after_a_take_back_is_said_to_be_down(settings, releases, build, systemd, running):
    build("second")
    systemd.failing["restart currents.service"] = "Job failed"
    with pytest.raises(ReleaseError, match=r"(?s)second was taken back, and one is not well: .*sudo sitectl") as error:
        deploy(settings, releases)
    assert "serves again" not in str(error.value)
    assert "not well: currents.service" in releases.records()[-1]["result"]


def test_where_there_is_nothing_to_go_back_to_it_is_said_that_the_bad_one_stays(
    settings, releases, build, systemd, running
):
    releases.write("one", BAD, {"why": "rolled back by me"})
    build("second")
    systemd.failing["restart currents.service"] = "Job failed"
    with pytest.raises(ReleaseError, match="second is not well, and there is no release to go back to: it stays"):
        deploy(settings, releases)
    assert releases.pointed("current") == "second"


class PowerCut(BaseException):
    """Ends everything where it is raised."""


@pytest.fixture
def cut(monkeypatch):
    """Cut the power where something would be called; `when` picks among its calls."""

    @contextmanager
    def block(owner, name, when=lambda *words: True):
        original = getattr(owner, name)

        def step(*words):
            if when(*words):
                raise PowerCut
            return original(*words)

        with monkeypatch.context() as patched, pytest.raises(PowerCut):
            patched.setattr(owner, name, step)
            yield

    return block


@pytest.fixture
def live(settings, releases, build, systemd, running):
    """The release second, which is live and watched."""
    build("second")
    deploy(settings, releases)
    systemd.asked.clear()


def restarts(systemd):
    return systemd.asked.count("systemctl restart currents.service")


@pytest.mark.parametrize("step", ["point", "restart"])
def test_a_take_back_that_the_power_cuts_off_is_finished_at_the_next_boot(settings, releases, systemd, live, cut, step):
    where = (releases, "point") if step == "point" else (host, "run", lambda argv, _: "restart" in argv)
    with cut(*where):
        take_back(settings, releases, "second", "one", "a hook failed")
    assert settings.watched.exists(), "so that the next boot watches"
    systemd.asked.clear()
    # All is well now, as after a failed hook: the mark counts, and not how it looks.
    watch(settings, releases, settings.run / "lock")
    assert (releases.pointed("current"), releases.look("second").state) == ("one", "bad")
    assert restarts(systemd) == (1 if step == "point" else 0), "after a boot it runs what is current"
    assert not settings.watched.exists()


def test_what_watches_ends_before_the_release_is_marked(settings, releases, systemd, live, monkeypatch):
    """It would take the release back beside this, or end the watch before all is done."""
    show = systemd.show
    monkeypatch.setattr(host, "show", lambda unit, *names: {**show(unit), "MainPID": "4711"})
    run = systemd.run
    marked = []
    monkeypatch.setattr(host, "run", lambda argv, _: (marked.append(releases.is_bad("second")), run(argv, 0))[1])
    take_back(settings, releases, "second", "one", "it died")
    assert systemd.asked[0] == "systemctl stop currents-watch.service"
    assert not marked[0]


@pytest.mark.parametrize("noted", [True, False], ids=["watched", "not watched"])
def test_a_run_after_a_take_back_that_was_cut_off_never_calls_the_bad_release_settled(
    settings, releases, systemd, live, cut, noted
):
    with cut(releases, "point"):
        take_back(settings, releases, "second", "one", "a hook failed")
    if not noted:
        settings.watched.unlink()
    if noted:
        with pytest.raises(
            ReleaseError, match=r"second was marked bad: a hook failed\. It has to be taken back to one"
        ):
            deploy(settings, releases, check=True)
    else:
        assert "settled" not in deploy(settings, releases, check=True).facts
    assert releases.is_bad("second"), "a dry run leaves it"
    if noted:
        with pytest.raises(ReleaseError, match=r"second was marked bad: a hook failed\. It was taken back; one serves"):
            deploy(settings, releases)
        assert (releases.pointed("current"), restarts(systemd)) == ("one", 1)
    else:
        # Nobody knows any more what to go back to: it has to show once more that it is sound.
        systemd.failing["restart currents-trial.service"] = "no"
        with pytest.raises(ReleaseError, match="it does not start"):
            deploy(settings, releases)
        assert releases.is_bad("second")
        systemd.failing.clear()
        deploy(settings, releases)
        assert not releases.is_bad("second")
        assert "settled" in deploy(settings, releases, check=True).facts


def test_a_rollback_that_the_power_cuts_off_marks_no_release_that_serves(settings, releases, build, systemd, live, cut):
    with cut(releases, "point"):
        rollback(settings, releases, "", "me", restore=False, check=False)
    assert (releases.pointed("current"), releases.is_bad("second")) == ("second", False)
    build("third")
    systemd.failing_once["restart currents.service"] = "Job failed"
    with pytest.raises(ReleaseError, match="third was taken back; second serves again"):
        deploy(settings, releases)


def test_a_rollback_has_marked_what_it_left_before_the_restart(settings, releases, systemd, live, cut):
    with cut(host, "run", lambda argv, _: "restart" in argv):
        rollback(settings, releases, "", "me", restore=False, check=False)
    assert (releases.pointed("current"), releases.is_bad("second")) == ("one", True)

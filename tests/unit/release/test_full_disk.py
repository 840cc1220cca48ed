"""A disk that is full at the worst moment: what serves goes on, with its own settings, and a bad release still goes.

The kernel lets nothing be written to any file, while files and links can be made: what root meets on a full disk.
"""

from __future__ import annotations

import resource
from contextlib import contextmanager

import pytest

from siterelease import snapshot
from siterelease.host import ReleaseError
from siterelease.releases import LIVE
from siterelease.rollback import rollback
from siterelease.switch import switch

pytestmark = pytest.mark.usefixtures("app")

#: The last thing that systemd is asked for before the switch, and the first after it.
BEFORE, AFTER = "stop currents-trial", "restart currents.service"


@pytest.fixture
def full_from(systemd, monkeypatch):
    """Fill the disk when systemd is asked for something, until the block ends."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    @contextmanager
    def begin(words):
        def run(argv, seconds):
            if words in " ".join(map(str, argv)):
                resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
            return systemd.run(argv, seconds)

        with monkeypatch.context() as patched:
            patched.setattr("siterelease.host.run", run)
            try:
                yield
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return begin


def deploy(settings, releases):
    return switch(settings, releases, "me@here", retry_bad=False, check=False)


def test_before_the_switch_it_leaves_what_serves_and_the_next_run_goes_on(
    settings, releases, build, full_from, running
):
    build("second")
    with full_from(BEFORE), pytest.raises(ReleaseError, match="second was not switched to; one serves") as error:
        deploy(settings, releases)
    assert "File too large" in str(error.value)
    assert releases.pointed("current") == "one"
    assert not releases.note("second", LIVE)
    assert deploy(settings, releases).changed
    assert releases.pointed("current") == "second"


def test_settings_that_cannot_be_put_back_are_said(settings, releases, build, full_from, running):
    build("second")
    settings.inputs[0].write_text("A=2\n")
    said = "one serves as before.*settings of one could not be put back: .* Make room"
    with full_from(BEFORE), pytest.raises(ReleaseError, match=f"(?s){said}"):
        deploy(settings, releases)


def test_where_room_is_left_for_it_the_old_settings_are_put_back(settings, releases, build, monkeypatch, running):
    build("second")
    settings.inputs[0].write_text("A=2\n")
    monkeypatch.setattr(snapshot, "take", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(ReleaseError, match="No space left on device\nThe settings on the host are those of one again"):
        deploy(settings, releases)
    assert settings.inputs[0].read_text() == "A=1\n"


def test_a_refusal_that_cannot_be_recorded_still_says_why(settings, releases, build, full_from, systemd, running):
    build("second")
    systemd.failing["restart currents-trial.service"] = "Job failed"
    with full_from("restart currents-trial.service"), pytest.raises(ReleaseError, match="it does not start"):
        deploy(settings, releases)
    assert releases.pointed("current") == "one"


def test_a_release_that_is_not_well_is_taken_back_and_marked(settings, releases, build, full_from, systemd, running):
    build("second")
    systemd.failing_once[AFTER] = "Job failed"
    with full_from(AFTER), pytest.raises(ReleaseError, match="second was taken back; one serves again"):
        deploy(settings, releases)
    assert releases.pointed("current") == "one"
    assert releases.is_bad("second")


def test_a_bad_release_goes_even_where_its_settings_stay(settings, releases, build, full_from, systemd, running):
    build("second")
    settings.inputs[0].write_text("A=2\n")
    systemd.failing_once[AFTER] = "Job failed"
    with (
        full_from(AFTER),
        pytest.raises(ReleaseError, match=r"second was taken back, its settings not: .*; one serves"),
    ):
        deploy(settings, releases)
    assert releases.pointed("current") == "one"
    assert systemd.asked.count(f"systemctl {AFTER}") == 2


def test_a_mark_without_its_reason_keeps_a_rollback_away(settings, releases, build, full_from, systemd, running):
    build("second")
    deploy(settings, releases)
    build("third")
    systemd.failing[AFTER] = "Job failed"
    with full_from(AFTER), pytest.raises(ReleaseError):
        deploy(settings, releases)
    systemd.failing.clear()
    assert releases.good() == ["one"]
    assert rollback(settings, releases, "", "me@here", restore=False, check=False).facts["release"] == "one"

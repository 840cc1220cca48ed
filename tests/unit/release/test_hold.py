"""A release that is proven while others come first: proven once, its hooks run once, and switched to in its turn."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from siterelease import __main__ as program
from siterelease.host import ReleaseError
from siterelease.releases import HELD
from siterelease.switch import switch

pytestmark = pytest.mark.usefixtures("systemd", "app")


@pytest.fixture
def running(settings, releases, build, systemd):
    """A site with one release that serves, and another one that was built."""
    systemd.active = "inactive"
    build("one")
    deploy(settings, releases)
    systemd.active = "active"
    systemd.asked.clear()
    build("other")


def deploy(settings, releases, hold=False, retry_bad=False):
    return switch(settings, releases, "me@here", retry_bad=retry_bad, check=False, hold=hold)


def times(systemd, words):
    return sum(words in asked for asked in systemd.asked)


def test_a_release_that_waits_is_proven_and_no_visitor_meets_it(settings, releases, running, systemd):
    outcome = deploy(settings, releases, hold=True)
    assert (outcome.changed, outcome.facts["pending"]) == (True, True)
    assert releases.pointed("current") == "one"
    assert times(systemd, "restart currents-trial.service") == 1
    assert times(systemd, "restart currents.service") == 0
    assert [one["release"] for one in releases.records()] == ["one"], "it is no deploy yet"


def test_the_turn_comes_without_a_second_proof_and_without_the_hooks_again(settings, releases, running, systemd):
    hooked = replace(settings, before_switch=("flask db upgrade",))
    (settings.data_dir / "a.db").write_bytes(b"")
    deploy(hooked, releases, hold=True)
    held = releases.note("other", HELD)
    tasks = times(systemd, "start currents-task.service")
    outcome = deploy(hooked, releases)
    assert (outcome.changed, releases.pointed("current")) == (True, "other")
    assert "pending" not in outcome.facts
    assert times(systemd, "restart currents-trial.service") == 1
    assert times(systemd, "start currents-task.service") == tasks
    assert releases.records()[-1]["backup"] == held["backup"]
    assert releases.note("other", HELD) == {}


def test_a_run_that_died_while_it_waited_goes_on_and_says_that_nothing_changed(settings, releases, running, systemd):
    deploy(settings, releases, hold=True)
    again = deploy(settings, releases, hold=True)
    assert (again.changed, again.facts["pending"]) == (False, True)
    assert times(systemd, "restart currents-trial.service") == 1


def test_changed_settings_are_proven_anew_before_the_turn(settings, releases, running, systemd):
    deploy(settings, releases, hold=True)
    settings.inputs[0].write_text("A=2\n")
    deploy(settings, releases)
    assert times(systemd, "restart currents-trial.service") == 2


def test_a_release_that_was_taken_back_is_prepared_anew(settings, releases, running, systemd):
    deploy(settings, releases, hold=True)
    systemd.failing = {"restart currents.service": "no"}
    with pytest.raises(ReleaseError):
        deploy(settings, releases)
    assert (releases.pointed("current"), releases.note("other", HELD)) == ("one", {})
    systemd.failing = {}
    deploy(settings, releases, hold=True, retry_bad=True)
    assert releases.note("other", HELD)["previous"] == "one"


def test_where_nothing_serves_there_is_no_turn_to_wait_for(settings, releases, build, systemd):
    systemd.active = "inactive"
    build("one")
    outcome = deploy(settings, releases, hold=True)
    assert (outcome.changed, releases.pointed("current")) == (True, "one")
    assert "pending" not in outcome.facts


def test_what_is_current_waits_for_nothing(settings, releases, running, systemd):
    deploy(settings, releases)
    outcome = deploy(settings, releases, hold=True)
    assert (outcome.changed, outcome.facts) == (False, {"settled": True})


def test_the_program_says_which_release_the_host_has_also_when_it_refuses(
    settings, releases, running, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(program, "load", lambda path: settings)
    assert program.main(["currents", "switch", "--json", "--locked", "--hold"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["current"], said["pending"], said["release"]) == ("one", True, "other")
    (releases.path("other") / "BAD").write_text("{}")
    assert program.main(["currents", "switch", "--json", "--locked"]) == 1
    assert json.loads(capsys.readouterr().out)["current"] == "one"

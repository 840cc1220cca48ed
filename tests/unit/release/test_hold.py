"""A release that is proven while others come first: proven once, its hooks run once, and switched to in its turn."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from siterelease import __main__ as program
from siterelease.host import ReleaseError
from siterelease.live import take_back
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


def turn(settings, releases):
    return switch(settings, releases, "me@here", retry_bad=False, check=False, turn=True)


@pytest.fixture
def env(settings):
    return settings.inputs[0]


def test_while_it_waits_the_settings_are_those_of_what_serves_and_in_its_turn_its_own(
    settings, releases, running, systemd, env
):
    """Another host may fail, and this one be rebooted: the old code would start with settings of the new."""
    env.write_text("A=2\n")
    deploy(settings, releases, hold=True)
    assert env.read_text() == "A=1\n"
    outcome = turn(settings, releases)
    assert (outcome.changed, releases.pointed("current"), env.read_text()) == (True, "other", "A=2\n")
    assert times(systemd, "restart currents-trial.service") == 1


def test_a_run_that_brings_the_settings_once_more_leaves_them_no_more_than_the_first(
    settings, releases, running, systemd, env
):
    for _ in range(2):
        env.write_text("A=2\n")
        deploy(settings, releases, hold=True)
        assert env.read_text() == "A=1\n"
    assert times(systemd, "restart currents-trial.service") == 1


def test_a_run_that_brings_other_settings_does_not_get_those_that_waited(settings, releases, running, systemd, env):
    env.write_text("A=2\n")
    deploy(settings, releases, hold=True)
    env.write_text("A=3\n")
    deploy(settings, releases)
    assert (releases.pointed("current"), env.read_text()) == ("other", "A=3\n")
    assert times(systemd, "restart currents-trial.service") == 2


def test_one_that_is_not_well_in_its_turn_leaves_the_settings_of_what_serves(settings, releases, running, systemd, env):
    env.write_text("A=2\n")
    deploy(settings, releases, hold=True)
    systemd.failing_once = {"restart currents.service": "no"}
    with pytest.raises(ReleaseError, match="other was taken back; one serves again"):
        turn(settings, releases)
    assert env.read_text() == "A=1\n"


def test_the_port_comes_with_the_turn(settings, releases, build, systemd, tmp_path):
    socket = tmp_path / "etc/currents.socket"
    socket.write_text("ListenStream=5555\n")
    settings.socket_record.write_text(f"{hashlib.sha256(socket.read_bytes()).hexdigest()}  {socket}\n")
    settings = replace(settings, inputs=(*settings.inputs, socket))
    systemd.active = "inactive"
    build("one")
    deploy(settings, releases)
    systemd.active = "active"
    build("other")
    socket.write_text("ListenStream=6666\n")
    deploy(settings, releases, hold=True)
    assert socket.read_text() == "ListenStream=5555\n"
    turn(settings, releases)
    assert socket.read_text() == "ListenStream=6666\n"


@pytest.mark.parametrize(("words", "takes"), [(["--locked", "--turn"], True), (["--locked"], False), ([], True)])
def test_the_turn_is_said_by_the_playbook_and_meant_by_whoever_switches_by_hand(
    settings, releases, running, env, monkeypatch, words, takes
):
    env.write_text("A=2\n")
    deploy(settings, releases, hold=True)
    program.run(settings, program.parser().parse_args(["currents", "switch", *words]))
    assert env.read_text() == ("A=2\n" if takes else "A=1\n")


def test_a_dry_run_of_a_turn_leaves_the_settings(settings, releases, running, env):
    env.write_text("A=2\n")
    deploy(settings, releases, hold=True)
    switch(settings, releases, "me", retry_bad=False, check=True, turn=True)
    assert env.read_text() == "A=1\n"


def test_what_was_proven_beside_another_release_than_serves_now_does_not_get_its_turn(
    settings, releases, running, build, env
):
    """The watch took that one back meanwhile."""
    deploy(settings, releases)
    build("third")
    env.write_text("A=3\n")
    deploy(settings, releases, hold=True)
    take_back(settings, releases, "other", "one", "it died")
    with pytest.raises(ReleaseError, match="one serves now, and no longer other: run the deploy again"):
        turn(settings, releases)
    assert (releases.pointed("current"), env.read_text()) == ("one", "A=1\n")


def test_the_playbook_holds_first_and_then_says_that_it_is_the_turn():
    tasks = Path(__file__).resolve().parents[3] / "roles/release/tasks"
    calls = [
        task["site_release"]
        for name in ("main.yml", "switch.yml")
        for task in yaml.safe_load((tasks / name).read_text())
        if "site_release" in task
    ]
    assert [(call.get("hold"), call.get("turn")) for call in calls] == [("{{ release_hold }}", None), (None, True)]

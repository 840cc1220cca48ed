"""A run that ends in the middle of a switch, killed or by a power cut: the next one does what it still owes."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace

import pytest

from siterelease import __main__ as program
from siterelease import host
from siterelease.host import ReleaseError
from siterelease.live import take_back
from siterelease.rollback import rollback
from siterelease.switch import switch

pytestmark = pytest.mark.usefixtures("app")

RESTART, HOOK = "restart currents.service", "start currents-task.service"


class PowerCut(BaseException):
    """Ends everything where it is raised."""


def deploy(settings, releases, check=False, hold=False):
    return switch(settings, releases, "me@here", retry_bad=False, check=check, hold=hold)


@pytest.fixture
def settings(settings):
    sqlite3.connect(settings.data_dir / "app.db").execute("CREATE TABLE votes (id INTEGER)").connection.close()
    return replace(settings, after_switch=("tell",))


@pytest.fixture
def cut_off(settings, releases, build, systemd, running, monkeypatch):
    """The release second was made current; the power failed when the app was to be restarted."""
    build("second")

    def cut(argv, seconds):
        if RESTART in " ".join(argv):
            raise PowerCut
        return systemd.run(argv, seconds)

    with monkeypatch.context() as patched, pytest.raises(PowerCut):
        patched.setattr(host, "run", cut)
        deploy(settings, releases)
    assert releases.pointed("current") == "second"
    systemd.asked.clear()


def tail(systemd):
    return [words.removeprefix("systemctl ") for words in systemd.asked if RESTART in words or HOOK in words]


def deploys(releases, name="second"):
    return [one for one in releases.records() if one["action"] == "deploy" and one["release"] == name]


def test_the_next_run_restarts_runs_the_hooks_and_records_the_deploy_with_its_backup(
    settings, releases, systemd, cut_off
):
    outcome = deploy(settings, releases)
    assert outcome.changed
    assert outcome.restarts[0]["unit"] == "currents.service"
    assert tail(systemd) == [RESTART, HOOK]
    assert [(one["result"], one["who"], one["previous"]) for one in deploys(releases)] == [("live", "me@here", "one")]
    assert (settings.backups / deploys(releases)[0]["backup"] / "app.db").is_file()
    assert deploy(settings, releases).facts == {"settled": True}
    assert tail(systemd) == [RESTART, HOOK], "once"


def test_a_dry_run_and_a_look_do_not_call_it_settled(settings, releases, systemd, cut_off, monkeypatch, capsys):
    monkeypatch.setattr(program, "load", lambda path: settings)
    assert program.main(["currents", "switch", "--check", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["changed"], "settled" in said) == (True, False)
    assert (systemd.asked, deploys(releases)) == ([], [])


def test_a_dry_run_says_what_a_killed_run_has_left_to_prove(settings, releases, build, systemd, running):
    settings.inputs[0].write_text("A=2\n")
    outcome = deploy(settings, releases, check=True)
    assert (outcome.changed, outcome.text) == (False, "one is current, and would be proven once more")
    assert outcome.restarts == [], "what runs with other settings is restarted by whoever sees to the service"
    build("second")
    outcome = deploy(settings, releases, check=True)
    assert (outcome.changed, outcome.text) == (True, "second would be proven, and become current in place of one")
    assert systemd.asked == []


def test_changed_settings_are_proven_and_then_it_is_finished(settings, releases, systemd, cut_off):
    settings.inputs[0].write_text("A=2\n")
    deploy(settings, releases)
    assert "systemctl restart currents-trial.service" in systemd.asked
    assert tail(systemd)[-2:] == [RESTART, HOOK]
    assert len(deploys(releases)) == 1


def test_behind_a_balancer_it_is_finished_in_its_turn(settings, releases, systemd, cut_off):
    assert deploy(settings, releases, hold=True).facts == {"pending": True, "release": "second"}
    assert tail(systemd) == []
    deploy(settings, releases)
    assert tail(systemd) == [RESTART, HOOK]


def test_one_that_is_not_well_then_is_taken_back_and_recorded_so(settings, releases, systemd, cut_off):
    systemd.failing_once[RESTART] = "Job failed"
    with pytest.raises(ReleaseError, match="second was taken back; one serves again"):
        deploy(settings, releases)
    assert [one["result"] for one in deploys(releases)] == ["taken back"]


def test_a_rollback_right_after_it_knows_the_backup(settings, releases, systemd, cut_off):
    assert rollback(settings, releases, "", "me", restore=True, check=True).facts["backup"]
    assert deploys(releases) == []
    done = rollback(settings, releases, "", "me", restore=True, check=False)
    assert done.facts["backup"] == deploys(releases)[0]["backup"]
    assert not releases.begun("second")
    assert [one["action"] for one in releases.records()[-2:]] == ["deploy", "rollback"]


def test_the_next_release_finds_it_recorded_and_spares_its_backup(settings, releases, build, systemd, cut_off):
    build("third")
    deploy(settings, releases)
    assert [one["release"] for one in releases.records()] == ["one", "second", "third"]
    assert "was cut off" in deploys(releases)[0]["why"]
    assert releases.backup_before("second") == deploys(releases)[0]["backup"] != ""


def test_a_note_that_outlived_its_record_is_no_reason_to_do_it_again(settings, releases, build, systemd, running):
    """The power may fail right after the record: a file that was deleted can be there again."""
    build("second")
    note = []
    record = releases.record
    releases.record = lambda **facts: (note.append(releases.unfinished.read_text()), record(**facts))
    deploy(settings, releases)
    releases.unfinished.write_text(note[0])
    systemd.asked.clear()
    assert deploy(settings, releases).facts == {"settled": True}
    assert tail(systemd) == []


def test_a_release_that_is_taken_back_at_once_is_recorded_with_who_and_its_backup(
    settings, releases, build, systemd, running
):
    build("second")
    systemd.failing_once[RESTART] = "Job failed"
    with pytest.raises(ReleaseError):
        deploy(settings, releases)
    done = deploys(releases)[0]
    assert (done["result"], done["who"], done["commit"]) == ("taken back", "me@here", "commit-of-second")
    assert (settings.backups / done["backup"]).is_dir()
    assert "currents.service is not well" in done["why"]
    assert releases.records()[-1]["action"] == "take back"
    assert not releases.unfinished.exists()


def test_a_take_back_by_the_watch_is_no_second_deploy(settings, releases, build, systemd, running):
    build("second")
    deploy(settings, releases)
    take_back(settings, releases, "second", "one", "it died")
    assert [one["result"] for one in deploys(releases)] == ["live"]


def test_a_refusal_is_recorded_with_what_it_saved_and_that_is_no_backup_to_go_back_to(
    settings, releases, build, systemd, running
):
    build("second")
    systemd.failing["restart currents-trial.service"] = "no"
    with pytest.raises(ReleaseError):
        deploy(settings, releases)
    done = deploys(releases)[0]
    assert (done["result"], "backup" in done) == ("refused", False)
    assert (settings.backups / done["saved"]).is_dir()


def test_a_take_back_that_is_cut_off_is_finished_where_nothing_is_watched(
    settings, releases, build, systemd, running, monkeypatch
):
    settings = replace(settings, watch_seconds=0)
    build("second")
    systemd.failing_once[RESTART] = "Job failed"
    point = releases.point

    def cut(link, name):
        if (link, name) == ("current", "one"):
            raise PowerCut
        point(link, name)

    with monkeypatch.context() as patched, pytest.raises(PowerCut):
        patched.setattr(releases, "point", cut)
        deploy(settings, releases)
    assert (releases.pointed("current"), releases.is_bad("second")) == ("second", True)
    with pytest.raises(ReleaseError, match="It was taken back; one serves again"):
        deploy(settings, releases)
    assert releases.pointed("current") == "one"
    assert [one["result"] for one in deploys(releases)] == ["taken back"]


@pytest.fixture
def rollback_cut_off(settings, releases, build, systemd, running, monkeypatch):
    """A rollback to the release one, made by you, ended in the moment in which that was made current."""
    settings = replace(settings, keep=5)
    for name in ("second", "third"):
        build(name)
        deploy(settings, releases)
    point = releases.point

    def cut(link, name):
        point(link, name)
        if link == "current":
            raise PowerCut

    with monkeypatch.context() as patched, pytest.raises(PowerCut):
        patched.setattr(releases, "point", cut)
        rollback(settings, releases, "", "you", restore=False, check=False)
    assert releases.pointed("current") == "second"
    systemd.asked.clear()


def test_a_rollback_that_was_cut_off_is_finished_by_the_next_and_goes_no_further(
    settings, releases, systemd, rollback_cut_off
):
    said = rollback(settings, releases, "", "me", restore=False, check=True)
    assert said.text.startswith("from third to second, which had been cut off; the database stays")
    assert not releases.is_bad("third")
    done = rollback(settings, releases, "", "me", restore=False, check=False)
    assert (done.facts["release"], done.restarts[0]["unit"]) == ("second", "currents.service")
    assert (releases.pointed("current"), releases.why_bad("third")) == ("second", "rolled back by you")
    assert tail(systemd) == [RESTART]
    last = releases.records()[-1]
    assert (last["action"], last["release"], last["who"], last["result"]) == ("rollback", "second", "you", "live")
    assert rollback(settings, releases, "", "me", restore=False, check=False).facts["release"] == "one"


def test_a_rollback_to_another_one_after_it_finds_it_recorded(settings, releases, systemd, rollback_cut_off):
    with pytest.raises(ReleaseError, match="third cannot be gone back to: it is bad"):
        rollback(settings, releases, "third", "me", restore=False, check=False)
    rollback(settings, releases, "one", "me", restore=False, check=False)
    assert [(one["action"], one["release"]) for one in releases.records()[-2:]] == [
        ("rollback", "second"),
        ("rollback", "one"),
    ]


def test_a_deploy_after_it_does_not_bring_back_what_was_left(settings, releases, systemd, rollback_cut_off):
    with pytest.raises(ReleaseError, match="third was marked bad: rolled back by you"):
        deploy(settings, releases)


def test_a_deploy_of_where_it_went_finishes_it(settings, releases, systemd, rollback_cut_off):
    releases.point("next", "second")
    assert deploy(settings, releases).restarts[0]["unit"] == "currents.service"
    assert tail(systemd) == [RESTART], "the hooks after a switch are a deploy's"
    assert releases.records()[-1]["action"] == "rollback"
    assert releases.backup_before("second") == deploys(releases)[0]["backup"] != ""
    assert deploy(settings, releases).facts == {"settled": True}


def test_the_backup_to_go_back_to_is_that_of_the_deploy_and_not_of_the_rollback(
    settings, releases, systemd, rollback_cut_off
):
    assert releases.backup_before("second") == deploys(releases)[0]["backup"] != ""

"""The order of a deploy, and that the old release stays whatever goes wrong."""

from __future__ import annotations

import fcntl
import json
from dataclasses import replace

import pytest

from siterelease import database, host
from siterelease.host import ReleaseError
from siterelease.releases import LIVE
from siterelease.rollback import rollback
from siterelease.switch import switch
from siterelease.trial import is_proven

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


def test_a_first_deploy_proves_and_links_and_leaves_the_start_to_others(settings, releases, build, systemd):
    systemd.active = "inactive"
    build("one")
    outcome = deploy(settings, releases)
    assert (outcome.changed, releases.pointed("current")) == (True, "one")
    assert "systemctl restart currents-trial.service" in systemd.asked
    assert not any("restart currents.service" in words or "systemd-run" in words for words in systemd.asked)
    assert releases.records()[-1] | {"at": 0, "seconds": 0} == {
        "at": 0,
        "seconds": 0,
        "action": "deploy",
        "release": "one",
        "previous": "",
        "who": "me@here",
        "commit": "commit-of-one",
        "result": "live",
        "backup": "",
    }


def test_a_deploy_does_everything_in_order(settings, releases, build, systemd, running):
    settings = replace(settings, before_switch=("migrate",), after_switch=("tell",))
    build("second")
    seen = []
    original = releases.point
    releases.point = lambda link, name: (seen.append(link), systemd.asked.append(f"link {link}"), original(link, name))
    outcome = deploy(settings, releases)
    order = [words for words in systemd.asked if not words.startswith("journalctl")]
    assert order == [
        "systemctl daemon-reload",
        "link trial",
        "systemctl start currents-task.service",
        "link trial",
        "systemctl start currents-task.service",
        "link trial",
        "systemctl restart currents-trial.service",
        "systemctl stop currents-trial.socket currents-trial.service",
        "link current",
        "systemctl reset-failed currents-watch.service",
        "systemctl enable --now --quiet --no-reload currents-watch.service",
        "systemctl restart currents.service",
        "link trial",
        "systemctl start currents-task.service",
    ]
    assert outcome.restarts == [{"unit": "currents.service", "action": "restart", "why": "release second"}]
    assert outcome.facts["watched_seconds"] == 60
    assert releases.pointed("current") == "second"


def test_nothing_to_do_does_nothing(settings, releases, systemd, running):
    outcome = deploy(settings, releases)
    assert not outcome.changed
    assert systemd.asked == []


def test_a_dry_run_only_says(settings, releases, build, systemd, running):
    build("second")
    outcome = deploy(settings, releases, check=True)
    assert (outcome.changed, [one["why"] for one in outcome.restarts]) == (True, ["release second"])
    assert (systemd.asked, releases.pointed("current")) == ([], "one")
    assert releases.records()[-1]["release"] == "one"


def test_a_dry_run_before_there_is_anything(settings, releases, systemd):
    systemd.active = "inactive"
    outcome = deploy(settings, releases, check=True)
    assert (outcome.changed, outcome.restarts) == (True, [])
    with pytest.raises(ReleaseError, match="no finished release"):
        deploy(settings, releases)


@pytest.mark.parametrize(
    ("failing", "said"),
    [
        ("start currents-task.service", "gunicorn --check-config failed"),
        ("restart currents-trial.service", "it does not start"),
    ],
)
def test_a_release_that_does_not_start_is_refused_and_recorded(
    settings, releases, build, systemd, running, failing, said
):
    build("second")
    systemd.failing[failing] = "Job failed"
    with pytest.raises(ReleaseError, match="one serves as before") as error:
        deploy(settings, releases)
    assert said in str(error.value)
    assert releases.pointed("current") == "one"
    assert releases.records()[-1]["result"] == "refused"
    assert not any("restart currents.service" in words for words in systemd.asked)
    assert not releases.note("second", LIVE)


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [("/health", 503, "is not well: it answers 503"), ("/login", 500, "/login of app_smoke_paths: it answers 500")],
)
def test_a_release_that_answers_badly_is_refused(settings, releases, build, systemd, app, running, path, status, said):
    build("second")
    app.answers[path] = host.Answer(status, b"", "")
    with pytest.raises(ReleaseError) as error:
        deploy(settings, releases)
    assert said in str(error.value)
    assert systemd.asked[-1].startswith("systemctl stop currents-trial") or "journalctl" in systemd.asked[-1]
    assert any(words.startswith("systemctl stop currents-trial") for words in systemd.asked)


def test_a_redirect_is_a_sound_answer_to_a_smoke_path(settings, releases, build, app, running):
    build("second")
    app.answers["/login"] = host.Answer(302, b"", "")
    assert deploy(settings, releases).changed


def test_a_leak_is_measured_against_the_running_release(settings, releases, build, app, running):
    build("second")
    app.memory["growth"] = 900 * 1024
    assert deploy(settings, releases).changed
    build("third")
    app.memory["growth"] = 1900 * 1024
    assert deploy(settings, releases).changed, "no more than 1 MiB above the running one"
    build("fourth")
    app.memory["growth"] = 2950 * 1024
    with pytest.raises(
        ReleaseError, match=r"it leaks: 2\.9 MiB more after 10 requests, .* running release had 1\.9 MiB"
    ):
        deploy(settings, releases)


def test_a_worker_that_was_replaced_on_trial_is_a_failure(settings, releases, build, app, running, monkeypatch):
    build("second")
    pids = iter((7, 8))
    ask = host.ask

    def replaced(address, path, seconds=1.0):
        if path == "/memory":
            app.memory["pid"] = next(pids)
        return ask(address, path, seconds)

    monkeypatch.setattr(host, "ask", replaced)
    with pytest.raises(ReleaseError, match="did not live through 10 requests"):
        deploy(settings, releases)


def test_a_release_that_is_not_well_after_the_switch_is_taken_back(settings, releases, build, systemd, running):
    build("second")
    systemd.failing_once["restart currents.service"] = "Job for currents.service failed"
    with pytest.raises(ReleaseError, match="taken back; one serves again"):
        deploy(settings, releases)
    assert releases.pointed("current") == "one"
    assert releases.look("second").state == "bad"
    assert sum("restart currents.service" in words for words in systemd.asked) == 2
    assert releases.records()[-1]["action"] == "take back"


def test_what_a_killed_run_left_behind_is_neither_proven_nor_written_over(
    settings, releases, build, systemd, running, monkeypatch
):
    build("second")
    script = settings.run / "sitekeeper/currents.task"
    script.write_text("the migration of the run that was killed")
    seen = []
    systemd.left_behind["currents-task.service"] = states = ["activating", "activating"]
    run = systemd.run

    def remember(argv, seconds):
        if "currents-task.service" in argv:
            seen.append(list(states))
        return run(argv, seconds)

    monkeypatch.setattr(host, "run", remember)
    assert deploy(settings, releases).changed
    assert seen == [[]], "only when the other command had ended"
    assert "systemctl restart currents-trial.service" in systemd.asked, "and never the trial that was still there"


def test_a_command_that_does_not_end_stops_the_deploy(settings, releases, build, systemd, running):
    build("second")
    systemd.left_behind["currents-task.service"] = ["activating"] * 1000
    with pytest.raises(ReleaseError, match=r"currents-task\.service is still at work"):
        deploy(replace(settings, hook_seconds=0.1), releases)
    assert releases.pointed("current") == "one"


def test_a_hook_that_fails_after_the_switch_takes_the_release_back(settings, releases, build, systemd, running):
    build("second")
    systemd.failing["start currents-task.service"] = "no"
    settings = replace(settings, after_switch=("tell",))
    # Proven before, so that the hook is the only command.
    releases.write(
        "second",
        "proof.json",
        {"inputs": __import__("siterelease.trial").trial.inputs_of(settings, releases, "second")},
    )
    with pytest.raises(ReleaseError, match="release_after_switch `tell` failed"):
        deploy(settings, releases)
    assert releases.pointed("current") == "one"


def test_a_bad_release_is_not_tried_again_unless_asked_for(settings, releases, build, running):
    build("second")
    releases.write("second", "BAD", {"why": "it leaks"})
    with pytest.raises(ReleaseError, match=r"marked bad: it leaks\. Change the code"):
        deploy(settings, releases)
    assert deploy(settings, releases, retry_bad=True).changed
    assert releases.look("second").state == "current"


def test_a_changed_setting_is_proven_before_the_app_restarts_with_it(settings, releases, systemd, running):
    settings.inputs[0].write_text("A=2\n")
    assert not is_proven(settings, releases, "one")
    outcome = deploy(settings, releases)
    assert not outcome.changed
    assert "systemctl restart currents-trial.service" in systemd.asked
    assert not any("restart currents.service" in words for words in systemd.asked), "that is for who installed the unit"
    assert is_proven(settings, releases, "one")


def test_a_changed_setting_that_breaks_the_app_stops_the_run(settings, releases, systemd, running):
    settings.inputs[0].write_text("A=broken\n")
    systemd.failing["restart currents-trial.service"] = "no"
    with pytest.raises(ReleaseError, match="one serves as before"):
        deploy(settings, releases)


def test_a_rollback_goes_to_the_good_one_before_and_marks_the_one_it_left(settings, releases, build, running):
    build("second")
    deploy(settings, releases)
    outcome = rollback(settings, releases, "", "me", restore=False, check=False)
    assert releases.pointed("current") == "one"
    assert releases.look("second").state == "bad"
    assert releases.look("second").why == "rolled back by me"
    assert outcome.restarts[0]["why"] == "rollback to one"
    with pytest.raises(ReleaseError, match="no good release"):
        rollback(settings, releases, "", "me", restore=False, check=False)


@pytest.mark.parametrize(
    ("to", "state"), [("one", "current"), ("nothing", "unknown"), ("ill", "bad"), ("new", "unproven")]
)
def test_a_rollback_refuses_what_is_not_good_and_names_the_choices(settings, releases, build, running, to, state):
    build("ill")
    releases.write("ill", "BAD", {"why": ""})
    build("new")
    build("well")
    releases.write("well", LIVE, {"last": 1})
    with pytest.raises(ReleaseError, match=f"{to} cannot be gone back to: it is {state}. Good releases: well"):
        rollback(settings, releases, to, "me", restore=False, check=False)


def test_a_rollback_of_the_code_goes_on_when_its_backup_is_gone(settings, releases, build, running):
    build("second")
    deploy(settings, releases)
    releases.record(action="deploy", release="second", backup="gone")
    with pytest.raises(ReleaseError, match="the backup gone is not there any more"):
        rollback(settings, releases, "", "me", restore=True, check=False)
    assert releases.pointed("current") == "second"
    outcome = rollback(settings, releases, "", "me", restore=False, check=False)
    assert "stays as it is (the backup gone is not there any more)" in outcome.text
    assert releases.pointed("current") == "one"


def test_a_rollback_to_what_is_not_well_any_more_is_recorded_and_names_the_others(
    settings, releases, build, systemd, running
):
    for name in ("second", "third"):
        build(name)
        deploy(replace(settings, keep=5), releases)
    systemd.failing["restart currents.service"] = "Job failed"
    with pytest.raises(ReleaseError, match=r"(?s)second is current now, and .*Other good releases: one"):
        rollback(settings, releases, "", "me", restore=False, check=False)
    assert releases.records()[-1]["result"] == "not well"


def test_a_release_that_cannot_be_watched_is_taken_back(settings, releases, build, systemd, running):
    build("second")
    systemd.failing["enable --now --quiet --no-reload currents-watch.service"] = "no"
    with pytest.raises(ReleaseError, match="taken back; one serves again"):
        deploy(settings, releases)
    assert releases.pointed("current") == "one"


def test_what_is_to_be_watched_is_on_the_disk_before_the_switch_and_no_longer_than_its_release(
    settings, releases, build, systemd, running
):
    build("second")
    written = []
    original = releases.point
    releases.point = lambda link, name: (written.append((link, settings.watched.exists())), original(link, name))
    deploy(settings, releases)
    assert ("current", True) in written, "the power may fail right after it"
    assert json.loads(settings.watched.read_text()) == {"release": "second", "previous": "one"}
    systemd.asked.clear()
    rollback(settings, releases, "", "me", restore=False, check=False)
    assert not settings.watched.exists()


def test_a_dry_rollback_changes_nothing(settings, releases, build, systemd, running):
    build("second")
    deploy(settings, releases)
    systemd.asked.clear()
    said = rollback(settings, releases, "", "me", restore=False, check=True)
    assert (said.text, said.restarts[0]["why"]) == ("from second to one", "rollback to one")
    assert (systemd.asked, releases.pointed("current")) == ([], "second")


def test_a_deploy_spares_the_backup_of_the_live_release(settings, releases, build, systemd, running, monkeypatch):
    releases.record(action="deploy", release="one", result="live", backup="before-one")
    spared = []
    monkeypatch.setattr(database, "save", lambda settings, why, spare: spared.append(spare) or "x")
    build("second")
    deploy(settings, releases)
    assert spared == ["before-one"]

"""`sitectl maintenance`: what is written, what the app makes of it, and what the operator is told."""

from __future__ import annotations

import json
import time

import pytest

from sitectl import maintenance
from sitekeeper.maintenance import Maintenance

NOTICED_SECONDS = maintenance.NOTICED_SECONDS


@pytest.fixture
def file(site, app, monkeypatch):
    """The file of a site that has one, and an app that shows the page."""
    site.configure(maintenance_file="/etc/currents/maintenance.json")
    path = site.root / "etc/currents/maintenance.json"
    path.parent.mkdir()
    app.behaviour = "503"
    monkeypatch.setattr(maintenance, "PROOF_SECONDS", 0.5)
    monkeypatch.setattr(maintenance, "NOTICED_SECONDS", 0.0)
    return path


def test_the_app_understands_what_is_written(site, file):
    assert site.run("maintenance", "on", "--minutes", "2", "--message", "Zurück um 12 h.") == 0
    notice, left = Maintenance(file, pytest.fail).now()
    assert notice.message == "Zurück um 12 h."
    assert 110 < left <= 120
    assert file.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_when_it_is_on_no_worker_lets_a_visitor_in(site, file, monkeypatch):
    # One that has looked just before knows of nothing for a second; another one may have shown its page already.
    monkeypatch.setattr(maintenance, "NOTICED_SECONDS", NOTICED_SECONDS)
    one = Maintenance(file, pytest.fail)
    assert one.now() is None
    assert site.run("maintenance", "on") == 0
    assert one.now(), "a migration that begins now meets no visitor"


def test_without_words_it_lasts_half_an_hour(site, file):
    assert site.run("maintenance", "on") == 0
    notice, left = Maintenance(file, pytest.fail).now()
    assert 1790 < left <= 1800
    assert notice.message


def test_off_ends_it_and_off_again_is_no_mistake(site, file, capsys):
    site.run("maintenance", "on")
    assert site.run("maintenance", "off") == 0
    assert not file.exists()
    assert "was not in maintenance" not in capsys.readouterr().out
    assert site.run("maintenance", "off") == 0
    assert "was not in maintenance" in capsys.readouterr().out


def test_both_are_in_the_journal(site, file):
    site.run("maintenance", "on")
    site.run("maintenance", "off")
    on, off = site.lines()
    assert "maintenance=on site=currents until=20" in on
    assert "maintenance=off" in off


def test_an_app_that_does_not_show_the_page_is_told_of(site, file, app, capsys):
    app.behaviour = "404"
    assert site.run("maintenance", "on") == 1
    assert "the app answered 404 in place of the page: run the deploy playbook" in capsys.readouterr().err
    assert file.exists()
    assert {path for path, _ in app.requests} == {maintenance.PROOF_PATH}, "no page of the app's own was asked for"


def test_an_app_that_is_stopped_shows_no_page(site, file, app, capsys):
    site.systemd(ActiveState="inactive", SubState="dead")
    assert site.run("maintenance", "on") == 1
    assert "is stopped: nobody shows the page" in capsys.readouterr().err
    assert app.requests == [], "a request would start it"


def test_a_site_whose_app_does_not_look_is_refused(site, capsys):
    assert site.run("maintenance", "on") == 2
    assert "no maintenance_file in its settings: run the monitor playbook" in capsys.readouterr().err


def test_an_app_that_was_never_deployed_is_refused(site, file, capsys):
    file.parent.rmdir()
    assert site.run("maintenance", "on") == 2
    assert "run the deploy playbook" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ("on", "--minutes", "0"),
        ("on", "--minutes", "1441"),
        ("on", "--minutes", "nan"),
        ("on", "--minutes", "soon"),
        ("on", "--message", " "),
        ("on", "--message", "a\nb"),
        ("on", "--message", "\x1b[31m"),
        ("on", "--message", "x" * 501),
        ("perhaps",),
        (),
    ],
)
def test_wrong_usage_writes_nothing(site, file, words):
    with pytest.raises(SystemExit) as error:
        site.run("maintenance", *words)
    assert error.value.code == 2
    assert not file.exists()


def status(site, capsys):
    capsys.readouterr()
    site.run("status", "--json")
    shown = json.loads(capsys.readouterr().out)["maintenance"]
    site.run("status")
    return shown, capsys.readouterr().out


def test_the_status_shows_it(site, file, capsys):
    assert status(site, capsys)[0] is None
    site.run("maintenance", "on", "--message", "Back soon.")
    shown, text = status(site, capsys)
    assert shown["message"] == "Back soon."
    assert f"maintenance  ON until {shown['until']}: Back soon." in text.splitlines()
    site.run("maintenance", "off")
    shown, text = status(site, capsys)
    assert shown is None
    assert "maintenance" not in text


@pytest.mark.parametrize(
    "text", ["", "[]", '{"until": 5, "message": "over"}', '{"until": 9e15, "message": "too long"}']
)
def test_the_status_shows_only_what_the_app_follows(site, file, capsys, text):
    file.write_text(text)
    assert status(site, capsys)[0] is None


def test_the_monitor_is_not_disturbed(site, file, app):
    # It asks for the health, which the app answers itself; here the app stands for that answer.
    site.run("maintenance", "on")
    app.behaviour = "ok"
    assert site.run("check") == 0
    assert site.calls("restart") == []


def test_it_is_over_in_time(site, file):
    site.run("maintenance", "on", "--minutes", "0.01")
    end = time.time() + 0.7
    one = Maintenance(file, pytest.fail)
    while one.now():
        assert time.time() < end

"""A deploy with nothing to do is answered together with its lock; any doubt is left to the modules."""

from __future__ import annotations

import hashlib
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from types import SimpleNamespace

import pytest
from ansible import constants
from ansible.plugins.action import ActionBase

from plugins.action import site_apt, site_release
from plugins.action.app_release import there
from plugins.action.converged_unit import settled
from plugins.module_utils import app_look, host_look
from plugins.module_utils.app_look import AppLook, release_id, release_parts
from plugins.module_utils.host_look import Seen

RUNS = {"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled", "NeedDaemonReload": "no"}
APP = {**RUNS, "Restart": "always", "MemoryMax": "1073741824"}
WANTED = {
    "name": "app.service",
    "socket": "app.socket",
    "started_with": "/run/app",
    "socket_started_with": "/run/socket",
    "expect": {"Restart": "always", "MemoryMax": "1G"},
    "health_url": "http://127.0.0.1/health",
    "health_timeout_seconds": 60,
    "hold": False,
}
CODE = {
    "label": "code",
    "digest": "abc",
    "python": "/usr/bin/python3",
    "gunicorn_version": "27.0.1",
    "requirements": [],
    "shared": ["data"],
    "switch": False,
}


@pytest.fixture
def host(tmp_path):
    """An app on a host: its releases, the record of its unit, a program that answers for them, its health."""

    class Health(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/health" else 503)
            self.end_headers()

        def log_message(self, *words):
            pass

    release = tmp_path / "srv/releases/one"
    (release / "venv/bin").mkdir(parents=True)
    (release / "venv/bin/python").touch()
    (release / "release.json").touch()
    for link in ("current", "next"):
        (tmp_path / "srv" / link).symlink_to("releases/one")
    (tmp_path / "input").write_text("as it was")
    digest = hashlib.sha256(b"as it was").hexdigest()
    (tmp_path / "record").write_text(f"{digest}  {tmp_path / 'input'}\n")
    with HTTPServer(("127.0.0.1", 0), Health) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield SimpleNamespace(path=tmp_path, release=release, url=f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


@pytest.fixture
def says(tmp_path, monkeypatch):
    """Let the program on the host print something."""

    def let(text, status=0):
        program = tmp_path / "release"
        program.write_text(f"#!/bin/sh\nprintf '%s' '{text}'\nexit {status}\n")
        program.chmod(0o755)
        monkeypatch.setattr(app_look, "PROGRAM", program)

    let('{"settled": true, "current": "one", "changed": false}')
    return let


def state(host, **changes):
    records = [str(host.path / "record")]
    about = {"name": "app", "root": str(host.path / "srv"), "python": "python3", "records": records}
    return AppLook({**about, "health_url": f"{host.url}/health", **changes}).state()


def test_a_look_at_an_app_that_is_as_it_should_be(host, says):
    found = state(host)
    assert found["links"] == {"current": "one", "next": "one"}
    assert found["drift"] == {str(host.path / "record"): []}
    assert found["health"] == {f"{host.url}/health": ""}
    assert found["python"]["python3"].startswith("3.")
    assert found["release"]["current"] == "one"
    assert AppLook({}).state() == {}


def test_a_look_tells_what_is_not_as_it_should_be(host, says):
    (host.path / "input").write_text("changed")
    (host.release / "UNFINISHED").touch()
    says('{"changed": true, "text": "two would be proven"}')
    none = str(host.path / "none")
    found = state(host, python=none, records=[str(host.path / "record"), none], health_url=f"{host.url}/ill")
    assert found["links"] == {}
    assert found["drift"] == {str(host.path / "record"): [str(host.path / "input")], none: [none]}
    assert found["health"] == {f"{host.url}/ill": "it answers 503"}
    assert found["python"] == {none: ""}
    assert found["release"] == {}


@pytest.mark.parametrize(("active", "asked"), [("active", True), ("inactive", False)])
def test_an_app_that_does_not_run_is_not_started_by_a_question(host, says, monkeypatch, active, asked):
    states = {"app.service": {"state": {"ActiveState": active}}, "app.socket": {"state": {"ActiveState": "active"}}}
    monkeypatch.setattr(host_look, "looked_up", lambda names, whole: states)
    about = {"root": "/none", "python": "python3", "records": [], "health_url": f"{host.url}/health"}
    options = {"name": "app", "look": ["/none"], "look_key": "key", "look_units": []}
    found = host_look.everything({**options, "look_app": {**about, "units": list(states)}})
    assert bool(found["seen"]["app"]["health"]) is asked


@pytest.mark.parametrize(("said", "status"), [('{"settled": true}', 1), ("no json", 0), ('{"settled": false}', 0)])
def test_a_program_that_does_not_say_that_all_is_settled_counts_as_none(host, says, said, status):
    says(said, status)
    assert state(host)["release"] == {}


def test_a_host_without_anything_has_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(app_look, "PROGRAM", tmp_path / "none")
    found = state(SimpleNamespace(path=tmp_path, url="http://127.0.0.1:1"))
    assert (found["links"], found["release"]) == ({}, {})


def seen(tmp_path, app=None, **units):
    known = Seen(str(tmp_path), "one")
    known.patterns, known.key, known.paths = ["/etc/systemd/system/*"], "key", {}
    states = {"app.service": APP, "app.socket": RUNS, **units}
    known.units = {
        name: {"active_since": 200.0, "loaded_at": 100.0, "state": state} for name, state in states.items() if state
    }
    drift, health = {"/run/app": [], "/run/socket": []}, {WANTED["health_url"]: ""}
    name = release_id("code", release_parts(CODE, "abc", "3.11.2"))
    links, python = {"current": "older", "next": name}, {"/usr/bin/python3": "3.11.2"}
    known.app = {"drift": drift, "health": health, "links": links, "python": python, **(app or {})}
    return known


def test_an_app_that_runs_as_asked_and_is_well_costs_no_call(tmp_path):
    assert settled(seen(tmp_path), WANTED)


@pytest.mark.parametrize(
    "difference",
    [
        {"app": {"drift": {"/run/app": ["app.env"], "/run/socket": []}}},
        {"app": {"drift": {"/run/app": [], "/run/socket": ["app.socket"]}}},
        {"app": {"drift": {"/run/socket": []}}},
        {"app": {"health": {WANTED["health_url"]: "it answers 503"}}},
        {"app": {"health": {"http://127.0.0.1/other": ""}}},
        {"app.service": {**APP, "MemoryMax": "infinity"}},
        {"app.service": {**APP, "ActiveState": "failed"}},
        {"app.service": {**APP, "NeedDaemonReload": "yes"}},
        {"app.socket": {**RUNS, "ActiveState": "inactive"}},
        {"app.socket": {**RUNS, "UnitFileState": "disabled"}},
        {"app.socket": None},
    ],
    ids=str,
)
def test_any_doubt_about_the_app_is_left_to_the_module(tmp_path, difference):
    assert not settled(seen(tmp_path, **difference), WANTED)


def test_a_run_that_has_changed_something_asks_again(tmp_path):
    known = seen(tmp_path)
    known.forget()
    assert not settled(known, WANTED)
    assert there(known, CODE) == ""


def test_a_release_that_is_there_costs_no_call(tmp_path):
    known = seen(tmp_path)
    assert there(known, CODE) == known.app["links"]["next"]


@pytest.mark.parametrize(
    "difference",
    [
        {"digest": "abcd"},
        {"digest": ""},
        {"label": "v2"},
        {"gunicorn_version": "27.0.2"},
        {"requirements": ["flask"]},
        {"shared": []},
        {"wheelhouse_digest": "w"},
        {"python": "/usr/bin/python3.12"},
        {"switch": True},
    ],
    ids=str,
)
def test_another_release_is_asked_for(tmp_path, difference):
    assert there(seen(tmp_path), {**CODE, **difference}) == ""


#: What a call of the host brings.
ASKED = {"changed": True}
#: What was asked of the app at the beginning of the run.
ABOUT = {"root": "/srv/app", "units": ["app.service", "app.socket"]}


@pytest.fixture
def task(tmp_path, monkeypatch):
    """Run an action; returns its result, ASKED when it called the host, and what is known of the app then."""
    monkeypatch.setattr(ActionBase, "run", lambda *words, **named: {})
    monkeypatch.setattr(constants, "DEFAULT_LOCAL_TMP", str(tmp_path))
    monkeypatch.setattr(ActionBase, "_execute_module", lambda *words, **named: {**ASKED})

    def run(plugin, app, check=False, **arguments):
        known = Seen(str(tmp_path), "one")
        known.app, known.packages, known.about = app, ["cron"], ABOUT
        known._write()
        action = object.__new__(plugin.ActionModule)
        action._task = SimpleNamespace(args={"name": "app", **arguments}, check_mode=check)
        return action.run(None, {"inventory_hostname": "one"}), Seen(str(tmp_path), "one").app

    return run


def test_what_is_current_and_proven_is_not_switched_to(task):
    said = {"settled": True, "changed": False, "restarts": [], "text": "one is current", "current": "one"}
    result, known = task(site_release, {"release": said}, action="switch")
    assert result == {**said, "serves": {"release": "one", "note": ""}}
    assert known == {"release": said}
    for app, action in (({"release": {}}, "switch"), ({}, "switch"), ({"release": said}, "rollback")):
        assert task(site_release, app, action=action) == (ASKED, {})


def test_how_an_app_runs_after_a_switch_is_known_without_another_call(task, tmp_path, monkeypatch):
    asked = []
    fresh = {"app.service": {"active_since": 300.0, "loaded_at": 100.0, "state": APP}}

    def host(*words, module_args, **named):
        asked.append(module_args)
        return {**ASKED, "seen": {"units": fresh, "app": {"drift": {"/run/app": []}}}}

    monkeypatch.setattr(ActionBase, "_execute_module", host)
    result, known = task(site_release, {}, action="switch")
    assert result == ASKED, "what was seen is not shown"
    assert known == {"drift": {"/run/app": []}}
    assert Seen(str(tmp_path), "one").units == fresh
    assert asked[0]["look_app"] == ABOUT
    task(site_release, {}, action="rollback")
    assert "look_app" not in asked[1]


@pytest.mark.parametrize(("active", "asked"), [("active", True), ("failed", False)])
def test_a_look_after_a_switch_is_at_the_units_and_the_health_alone(host, monkeypatch, active, asked):
    states = {name: {"state": {"ActiveState": active}} for name in ABOUT["units"]}
    monkeypatch.setattr(host_look, "looked_up", lambda names, whole: {name: states[name] for name in whole})
    record, url = str(host.path / "record"), f"{host.url}/health"
    about = {**ABOUT, "root": str(host.path / "srv"), "records": [record], "health_url": url}
    running = {"links": {"current": "one", "next": "one"}, "drift": {record: []}, "health": {url: ""} if asked else {}}
    assert host_look.app_again(about) == {"seen": {"units": states, "app": running}}
    assert host_look.app_again({}) == {}


def test_after_a_package_was_installed_the_app_is_asked_again(task):
    assert task(site_apt, {"links": {}}, name="cron") == ({"changed": False}, {"links": {}})
    assert task(site_apt, {"links": {}}, name=["cron", "python3"]) == (ASKED, {})


@pytest.mark.parametrize(
    ("failed", "check", "known"), [(False, False, True), (True, False, False), (False, True, True)]
)
def test_a_package_that_a_role_has_installed_is_not_asked_for_again_by_the_next(
    task, tmp_path, monkeypatch, failed, check, known
):
    monkeypatch.setitem(ASKED, "failed", failed)
    task(site_apt, {}, check, name=["cron", "logrotate"])
    assert Seen(str(tmp_path), "one").has_packages(["logrotate"]) is known

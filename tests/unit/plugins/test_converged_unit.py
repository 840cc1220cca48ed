"""What converged_unit decides, in tables; and what it does, on a systemctl that keeps its state in files."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest
from ansible.module_utils.testing import patch_module_args

from plugins.module_utils.unit_health import healthy
from plugins.module_utils.unit_plan import Step, Wanted, changed_inputs, is_stale, normalised, parse_show, plan, unmet
from plugins.modules import converged_unit
from plugins.modules.converged_unit import changed_after

APP, SOCKET = "testkeeper-app.service", "testkeeper-app.socket"
UP = {"ActiveState": "active", "UnitFileState": "enabled"}
DOWN = {"ActiveState": "inactive", "UnitFileState": "enabled"}
FAILED = {"ActiveState": "failed", "UnitFileState": "enabled"}
CRASHING = {"ActiveState": "activating", "UnitFileState": "enabled"}
NEW = {"ActiveState": "inactive", "UnitFileState": ""}


# The record of inputs


def record(contents):
    return "".join(f"{hashlib.sha256(text).hexdigest()}  {path}\n" for path, text in contents.items())


def test_inputs_that_are_as_recorded_are_no_change():
    files = {"/etc/app/app.env": b"A=1", "/etc/a file": b""}
    assert changed_inputs(record(files), files.__getitem__) == []


def test_a_changed_and_a_vanished_input_are_named_in_order():
    def read(path):
        if path == "/gone":
            raise FileNotFoundError(path)
        return b"now"

    lines = record({"/gone": b"x", "/same": b"now", "/other": b"then"})
    assert changed_inputs(lines, read) == ["/gone", "/other"]


def test_sha256sums_mark_of_an_escaped_name_is_no_change():
    assert changed_inputs("\\" + record({"/a": b"x"}), lambda _: b"x") == []


def test_lines_that_are_no_record_are_passed_over():
    assert changed_inputs("\nnonsense\n", lambda _: b"") == []


# Properties


def test_show_is_parsed_with_equals_signs_in_values():
    assert parse_show("A=1\nB=\nC=x=y\nnoise\n") == {"A": "1", "B": "", "C": "x=y"}


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("MemoryMax", "800M", str(800 * 1024**2)),
        ("MemoryMax", "1G", str(1024**3)),
        ("MemoryMax", 1024, "1024"),
        ("MemoryHigh", "infinity", "infinity"),
        ("TasksMax", "512", "512"),
        ("TasksMax", 512, "512"),
        ("NoNewPrivileges", True, "yes"),
        ("NoNewPrivileges", False, "no"),
        ("KillSignal", 1, "1"),
        ("User", "1G", "1G"),
    ],
)
def test_values_are_compared_in_the_form_that_systemd_shows(name, value, text):
    assert normalised(name, value) == text


def test_properties_that_systemd_holds_are_met():
    shown = {"MemoryMax": str(800 * 1024**2), "NoNewPrivileges": "yes", "Restart": "always", "TasksMax": "512"}
    asked = {"MemoryMax": "800M", "NoNewPrivileges": True, "Restart": "always", "TasksMax": 512}
    assert unmet(asked, shown) == []


def test_properties_that_systemd_does_not_hold_are_named_with_both_values():
    assert unmet({"MemoryMax": "800M", "Restart": "always"}, {"MemoryMax": "infinity"}) == [
        "MemoryMax is infinity, asked for 800M",
        "Restart is unknown, asked for always",
    ]


@pytest.mark.parametrize(
    ("shown", "stale"),
    [
        ({"NeedDaemonReload": "no", "LoadState": "loaded"}, False),
        ({"NeedDaemonReload": "yes", "LoadState": "loaded"}, True),
        ({"NeedDaemonReload": "no", "LoadState": "not-found"}, True),
    ],
)
def test_systemd_is_behind_when_it_says_so_or_knows_no_such_unit(shown, stale):
    assert is_stale(shown) is stale


def test_only_files_younger_than_the_start_count(tmp_path):
    for name, age in (("old", 500), ("young", 10)):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (time.time() - age, time.time() - age))
    started = str(int((time.monotonic() - 100) * 1e6))
    paths = [str(tmp_path / name) for name in ("old", "young", "absent")]
    assert changed_after(paths, started) == [str(tmp_path / "young")]


# Decisions


@pytest.mark.parametrize(
    ("app", "sock", "drift", "steps"),
    [
        (UP, UP, {}, []),
        (CRASHING, UP, {}, []),
        (UP, UP, {APP: ["/a", "/b"]}, [("restart", APP, "/a, /b changed")]),
        (CRASHING, UP, {APP: ["/a"]}, [("restart", APP, "/a changed")]),
        (DOWN, UP, {}, [("start", APP, "was not running")]),
        (FAILED, UP, {}, [("start", APP, "was not running")]),
        (
            UP,
            UP,
            {SOCKET: ["/s"]},
            [
                ("stop", APP, "its socket changes"),
                ("restart", SOCKET, "/s changed"),
                ("start", APP, "its socket changed"),
            ],
        ),
        (DOWN, UP, {SOCKET: ["/s"]}, [("restart", SOCKET, "/s changed"), ("start", APP, "its socket changed")]),
        (
            UP,
            DOWN,
            {},
            [
                ("stop", APP, "it runs without its socket"),
                ("start", SOCKET, "was not listening"),
                ("start", APP, "was not running"),
            ],
        ),
        (DOWN, DOWN, {}, [("start", SOCKET, "was not listening"), ("start", APP, "was not running")]),
        (
            UP,
            FAILED,
            {APP: ["/a"]},
            [
                ("stop", APP, "it runs without its socket"),
                ("start", SOCKET, "was not listening"),
                ("start", APP, "/a changed"),
            ],
        ),
        (
            NEW,
            NEW,
            {},
            [
                ("enable", SOCKET, "is new"),
                ("enable", APP, "is new"),
                ("start", SOCKET, "was not listening"),
                ("start", APP, "was not running"),
            ],
        ),
    ],
    ids=[
        "all is well",
        "crashing, nothing changed",
        "inputs changed",
        "crashing, inputs changed",
        "not running",
        "failed",
        "socket changed",
        "socket changed, service down",
        "socket down under a running service",
        "both down",
        "socket failed and inputs changed",
        "first run",
    ],
)
def test_a_service_with_a_socket(app, sock, drift, steps):
    assert plan(Wanted(APP, SOCKET), {APP: app, SOCKET: sock}, drift) == [Step(*step) for step in steps]


@pytest.mark.parametrize(
    ("wanted", "state", "drift", "steps"),
    [
        (Wanted(APP), UP, {}, []),
        (Wanted(APP), UP, {APP: ["/a"]}, [("restart", APP, "/a changed")]),
        (Wanted(APP), DOWN, {APP: []}, [("start", APP, "was not running")]),
        (Wanted(APP, enabled=False), UP, {}, [("disable", APP, "is enabled")]),
        (Wanted(APP, enabled=False), {**UP, "UnitFileState": "disabled"}, {}, []),
        (Wanted(APP), {**UP, "UnitFileState": "disabled"}, {}, [("enable", APP, "is disabled")]),
        (Wanted(APP), {**UP, "UnitFileState": "static"}, {}, []),
        (Wanted(APP, enabled=False), {**UP, "UnitFileState": "static"}, {}, []),
        (Wanted(APP), {**UP, "UnitFileState": "generated"}, {}, []),
        (Wanted(APP), {**UP, "UnitFileState": "alias"}, {}, []),
        (Wanted(APP, state="stopped"), UP, {APP: ["/a"]}, [("stop", APP, "switched off")]),
        (Wanted(APP, state="stopped"), CRASHING, {}, [("stop", APP, "switched off")]),
        (Wanted(APP, state="stopped", enabled=False), {**DOWN, "UnitFileState": "disabled"}, {}, []),
    ],
)
def test_a_service_without_a_socket(wanted, state, drift, steps):
    assert plan(wanted, {APP: state}, drift) == [Step(*step) for step in steps]


def test_the_socket_goes_first_when_both_are_switched_off():
    # Else the next visitor's connection would start the service again.
    steps = plan(Wanted(APP, SOCKET, "stopped", False), {APP: UP, SOCKET: UP}, {})
    assert [(step.action, step.unit) for step in steps] == [
        ("disable", SOCKET),
        ("disable", APP),
        ("stop", SOCKET),
        ("stop", APP),
    ]


# Health


@pytest.fixture
def web():
    """A server that gives the answers in `codes` in turn, the last of them for good."""
    codes = [200]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(codes.pop(0) if len(codes) > 1 else codes[0])
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}/health", codes=codes)
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.fixture
def closed():
    """The address of a port on which nothing listens, held so that nobody else takes it."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}/health"


def test_health_is_an_answer_of_200_and_else_the_reason(web, closed):
    assert healthy(web.url) == ""
    web.codes[:] = [503]
    assert healthy(web.url) == "it answers 503"
    assert "refused" in healthy(closed)
    assert healthy("nonsense").startswith("no answer")


def test_a_proxy_of_the_hosts_environment_is_not_asked_for_the_app(web, closed, monkeypatch):
    monkeypatch.setenv("http_proxy", closed)
    monkeypatch.delenv("no_proxy", raising=False)
    assert healthy(web.url) == ""


def test_something_on_the_port_that_speaks_no_http_is_not_healthy():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def speak():
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        thread = threading.Thread(target=speak)
        thread.start()
        assert healthy(f"http://127.0.0.1:{server.getsockname()[1]}/").startswith("no answer")
        thread.join(10)


# The module, on a systemctl of files: one directory per unit, one file per property

SYSTEMCTL = """#!/bin/sh
state={state}
echo "$*" >>$state/calls
action=$1; unit=$2
set_state() {{ [ -d $state/$unit ] || exit 5; echo "$2" >$state/$unit/$1; }}
case $action in
daemon-reload)
  for dir in $state/*.on_disk; do
    [ -d "$dir" ] && mv "$dir" "${{dir%.on_disk}}"
  done
  for file in $state/*/NeedDaemonReload; do [ -e "$file" ] && echo no >"$file"; done
  exit 0 ;;
show)
  [ "$unit" = -p ] && {{ echo "$3=$(cat $state/$3)"; exit 0; }}
  [ -d $state/$unit ] || {{ echo LoadState=not-found; echo ActiveState=inactive; exit 0; }}
  if [ -e $state/$unit/crashing ]; then echo $(($(cat $state/$unit/NRestarts) + 1)) >$state/$unit/NRestarts; fi
  for name in $(echo "$4" | tr , ' '); do
    [ -e $state/$unit/$name ] && echo "$name=$(cat $state/$unit/$name)"
  done
  exit 0 ;;
start|restart)
  [ -e $state/$unit/broken ] && {{ echo "Job for $unit failed." >&2; exit 1; }}
  set_state ActiveState active
  [ -e $state/$unit/on_start ] && sh $state/$unit/on_start
  exit 0 ;;
stop) set_state ActiveState inactive ;;
enable) set_state UnitFileState enabled ;;
disable) set_state UnitFileState disabled ;;
esac
"""
JOURNALCTL = "#!/bin/sh\necho 'ModuleNotFoundError: no module named flask'\n"


@pytest.fixture
def host(tmp_path, monkeypatch, capsys):
    """A host with this systemctl, and a way to run the module on it."""
    state, programs = tmp_path / "state", tmp_path / "bin"
    state.mkdir()
    programs.mkdir()
    for name, text in (("systemctl", SYSTEMCTL.format(state=state)), ("journalctl", JOURNALCTL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(converged_unit, "HEALTH_POLL_SECONDS", 0.01)
    (state / "UnitsLoadTimestampMonotonic").write_text(str(int(time.monotonic() * 1e6)))

    def unit(name, directory=None, **properties):
        path = state / (directory or name)
        path.mkdir()
        defaults = {"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled", "NRestarts": "0"}
        for key, value in {**defaults, "NeedDaemonReload": "no", **properties}.items():
            (path / key).write_text(value)
        return path

    def run(check=False, **args):
        (state / "calls").unlink(missing_ok=True)
        with patch_module_args({"name": APP, **args, "_ansible_check_mode": check}), pytest.raises(SystemExit):
            converged_unit.main()
        return json.loads(capsys.readouterr().out)

    def acts():
        calls = (state / "calls").read_text().splitlines()
        return [call for call in calls if not call.startswith("show")]

    config, started = tmp_path / "app.env", tmp_path / "started_with"
    config.write_text("A=1\n")
    return SimpleNamespace(
        run=run,
        unit=unit,
        acts=acts,
        state=state,
        config=config,
        started=started,
        keep=f"sha256sum {config} >{started}",
    )


def recording(host, **properties):
    """A unit that records its input at each start, as the roles' units do."""
    path = host.unit(APP, **properties)
    (path / "on_start").write_text(host.keep)
    return path


def test_a_unit_that_runs_as_its_files_say_is_left_alone(host):
    recording(host)
    host.started.write_text(record({str(host.config): b"A=1\n"}))
    result = host.run(started_with=str(host.started))
    assert (result["changed"], result["restarts"]) == (False, [])
    assert host.acts() == []


def test_a_changed_input_restarts_once_and_is_the_reason(host):
    recording(host)
    host.started.write_text(record({str(host.config): b"A=0\n"}))
    result = host.run(started_with=str(host.started))
    assert result["restarts"] == [{"unit": APP, "action": "restart", "why": f"{host.config} changed"}]
    assert host.acts() == [f"restart {APP}"]
    assert host.run(started_with=str(host.started))["changed"] is False


def test_a_restart_lost_by_an_interrupted_run_is_made_up_for(host):
    recording(host)
    host.started.write_text(record({str(host.config): b"A=1\n"}))
    host.config.write_text("A=2\n")
    assert host.run(started_with=str(host.started))["restarts"][0]["action"] == "restart"


def test_a_running_unit_without_its_record_is_restarted(host):
    recording(host)
    result = host.run(started_with=str(host.started))
    assert result["restarts"][0]["why"] == "its record of inputs changed"
    assert host.started.exists()


def test_a_unit_that_keeps_no_record_is_restarted_for_younger_files(host):
    started = time.monotonic() - 100
    host.unit(APP, ActiveEnterTimestampMonotonic=str(int(started * 1e6)))
    (host.state / "UnitsLoadTimestampMonotonic").write_text(str(int((time.monotonic() + 60) * 1e6)))
    assert host.run(newer_files=[str(host.config)])["restarts"][0]["why"] == f"{host.config} changed"
    os.utime(host.config, (time.time() - 500, time.time() - 500))
    assert host.run(newer_files=[str(host.config)])["changed"] is False


def test_a_drop_in_that_systemd_has_not_read_makes_it_read_its_units(host):
    host.unit(APP, ActiveEnterTimestampMonotonic=str(int((time.monotonic() + 60) * 1e6)))
    (host.state / "UnitsLoadTimestampMonotonic").write_text(str(int((time.monotonic() - 60) * 1e6)))
    assert host.run(newer_files=[str(host.config)])["changed"] is True
    assert host.acts() == ["daemon-reload"]


def test_a_new_unit_is_read_enabled_and_started(host):
    for name in (APP, SOCKET):
        host.unit(name, f"{name}.on_disk", ActiveState="inactive", UnitFileState="disabled")
    result = host.run(socket=SOCKET)
    assert result["changed"] is True
    assert host.acts() == ["daemon-reload", f"enable {SOCKET}", f"enable {APP}", f"start {SOCKET}", f"start {APP}"]
    assert [(r["action"], r["unit"]) for r in result["restarts"]] == [("start", SOCKET), ("start", APP)]
    assert host.run(socket=SOCKET)["changed"] is False


def test_a_changed_port_stops_the_service_before_the_socket_is_opened_anew(host):
    host.unit(APP)
    host.unit(SOCKET)
    host.started.write_text(record({str(host.config): b"the old port"}))
    result = host.run(socket=SOCKET, socket_started_with=str(host.started))
    assert host.acts() == [f"stop {APP}", f"restart {SOCKET}", f"start {APP}"]
    assert [r["action"] for r in result["restarts"]] == ["stop", "restart", "start"]


def test_check_mode_changes_nothing_but_says_what_it_would_do(host):
    recording(host, NeedDaemonReload="yes")
    host.started.write_text(record({str(host.config): b"A=0\n"}))
    result = host.run(check=True, started_with=str(host.started), expect={"Restart": "always"})
    assert (result["changed"], [r["action"] for r in result["restarts"]]) == (True, ["restart"])
    assert host.acts() == []


def test_check_mode_works_before_there_is_a_unit(host):
    result = host.run(check=True, socket=SOCKET, health_url="http://127.0.0.1:1/")
    assert result["changed"] is True
    assert host.acts() == []


def test_stopping_what_is_not_there_or_not_running_changes_nothing(host):
    assert host.run(state="stopped", enabled=False)["changed"] is False
    host.unit(APP, ActiveState="inactive", UnitFileState="disabled")
    assert host.run(state="stopped", enabled=False)["changed"] is False


def test_a_unit_is_stopped_and_disabled(host):
    host.unit(APP)
    result = host.run(state="stopped", enabled=False, expect={"Restart": "always"}, health_url="http://127.0.0.1:1/")
    assert host.acts() == [f"disable {APP}", f"stop {APP}"]
    assert result["restarts"] == [{"unit": APP, "action": "stop", "why": "switched off"}]


def test_a_unit_that_does_not_start_fails_with_its_journal(host):
    (host.unit(APP, ActiveState="inactive") / "broken").write_text("")
    result = host.run()
    assert result["failed"] is True
    assert f"systemctl start {APP} failed: Job for {APP} failed." in result["msg"]
    assert "no module named flask" in result["msg"]


def test_a_property_that_systemd_does_not_hold_fails_the_run_by_name(host):
    host.unit(APP, MemoryMax="infinity", Restart="always")
    result = host.run(expect={"MemoryMax": "1G", "Restart": "always"})
    assert result["failed"] is True
    assert result["msg"] == f"{APP} does not run as asked: MemoryMax is infinity, asked for 1G"


def test_properties_as_asked_pass(host):
    host.unit(APP, MemoryMax=str(1024**3), NoNewPrivileges="yes")
    result = host.run(expect={"MemoryMax": "1G", "NoNewPrivileges": True})
    assert (result["changed"], result.get("failed")) == (False, None)


def test_an_app_that_needs_a_moment_is_waited_for(host, web):
    host.unit(APP, ActiveState="inactive")
    web.codes[:] = [503, 503, 200]
    result = host.run(health_url=web.url)
    assert (result["changed"], result.get("failed")) == (True, None)
    assert web.codes == [200]


def test_a_crash_loop_is_told_long_before_the_deadline(host, closed):
    (host.unit(APP, ActiveState="activating", Result="exit-code") / "crashing").write_text("")
    start = time.monotonic()
    result = host.run(health_url=closed, health_timeout_seconds=60)
    assert time.monotonic() - start < 30
    assert "it crashes again and again" in result["msg"]
    assert "no module named flask" in result["msg"]
    assert f"journalctl -u {APP}" in result["msg"]


def test_restarts_of_long_ago_are_no_crash_loop(host, web):
    host.unit(APP, NRestarts="250")
    web.codes[:] = [503, 200]
    assert host.run(health_url=web.url).get("failed") is None


def test_a_unit_that_gave_up_is_told_at_once(host, closed):
    path = host.unit(APP, Result="oom-kill")
    (path / "on_start").write_text(f"echo failed >{path}/ActiveState")
    (path / "ActiveState").write_text("inactive")
    result = host.run(health_url=closed, health_timeout_seconds=300)
    assert "failed (oom-kill)" in result["msg"]


def test_an_app_that_never_gets_healthy_fails_at_the_deadline(host, web):
    host.unit(APP, Result="success")
    web.codes[:] = [500]
    result = host.run(health_url=web.url, health_timeout_seconds=1)
    assert f"{APP} is not healthy at {web.url}: it answers 500; active (success)." in result["msg"]

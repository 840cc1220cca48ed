"""What converged_unit does, on a systemctl that keeps its state in files."""

from __future__ import annotations

import grp
import json
import os
import pwd
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible.module_utils.testing import patch_module_args

from plugins.modules import converged_unit
from tests.unit.plugins.unit_states import APP, SOCKET, record

REPOSITORY = Path(__file__).resolve().parents[3]
# One directory per unit, one file per property.
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


def test_a_dry_run_names_what_files_that_it_would_write_would_restart(host):
    recording(host)
    host.started.write_text(record({str(host.config): b"A=1\n"}))
    wanted = [{"unit": APP, "action": "restart", "why": f"{host.config} changed"}]
    inputs = {"started_with": str(host.started), "newer_files": [str(host.config)]}
    os.utime(host.config, (1, 1))
    for kind, value in inputs.items():
        result = host.run(check=True, would_write=[str(host.config)], **{kind: value})
        assert (result["changed"], result["restarts"]) == (True, wanted), kind
        assert host.run(check=True, would_write=["/etc/other"], **{kind: value})["restarts"] == [], kind
    assert host.acts() == []


PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - name: Write
      config_files:
        files: [{path: "{{ path }}", content: "A=2\n", mode: "0644", owner: "{{ me }}", group: "{{ us }}"}]
    - name: Run
      converged_unit: {name: "{{ unit }}", started_with: "{{ record }}"}
"""


def test_a_play_says_beforehand_what_it_will_restart(host, tmp_path):
    recording(host)
    host.started.write_text(record({str(host.config): b"A=1\n"}))
    (tmp_path / "play.yml").write_text(PLAY)
    me, us = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name
    variables = {"path": str(host.config), "record": str(host.started), "unit": APP, "me": me, "us": us}

    def play(*words):
        argv = [Path(sys.executable).with_name("ansible-playbook"), "-i", "one,", "-c", "local", tmp_path / "play.yml"]
        argv += ["-e", json.dumps(variables), "-e", f"ansible_python_interpreter={sys.executable}", *words]
        plain = os.environ | {"ANSIBLE_FORCE_COLOR": "0"}
        done = subprocess.run(argv, cwd=REPOSITORY, env=plain, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    what = f"{APP} on one (restart): {host.config} changed\n"
    assert f"Would restart: {what}" in play("--check")
    assert host.config.read_text() == "A=1\n"
    assert f"Restarted: {what}" in play()
    assert "Would restart: nothing" in play("--check")


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

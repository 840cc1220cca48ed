"""The check from end to end: a real server, fake system commands, files below a directory."""

from __future__ import annotations

import fcntl
import json
import time
from pathlib import Path

import pytest

from sitectl import store
from sitectl.host import Now

REPOSITORY = Path(__file__).resolve().parents[3]


def test_a_healthy_app_is_reported_with_one_line(site):
    assert site.run("check") == 0
    (line,) = site.lines()
    assert "SYSLOG_IDENTIFIER=sitectl-currents\n" in line
    assert "MESSAGE=verdict=healthy status=200 ms=" in line
    assert site.calls("restart") == []


def test_the_second_bad_check_restarts_and_waits_until_healthy(site, app):
    site.fake("systemctl", f"case $1 in show) cat {site.properties};; restart) touch {site.root}/restarted;; esac")
    app.behaviour = "500"
    assert site.run("check") == 1
    assert site.calls("restart") == []

    real = app.answer

    def healed_by_restart(handler):
        app.behaviour = "ok" if (site.root / "restarted").exists() else "500"
        real(handler)

    app.answer = healed_by_restart
    assert site.run("check") == 3
    assert site.calls("restart") == ["systemctl restart -- currents.service"]
    first, decision, outcome = site.lines()
    assert "bad check 1 of 2" in first
    assert "verdict=restart status=500" in decision
    assert "action=restart " in decision
    assert "action=restarted" in outcome
    assert "healthy again" in outcome
    assert site.state()["failures"] == 0


def test_an_app_that_stays_down_is_reported_and_left_alone_for_the_pause(site, app):
    site.configure(restart_timeout_seconds=1)
    app.behaviour = "500"
    assert [site.run("check") for _ in range(5)] == [1] * 5
    assert len(site.calls("restart")) == 1
    assert site.calls("reset-failed") == []
    assert any("still not healthy" in line for line in site.lines())
    assert site.state()["failures"] == 5


def test_a_hanging_systemctl_does_not_hang_the_check(site, app):
    site.fake("systemctl", f"case $1 in show) cat {site.properties};; restart) exec sleep 30;; esac")
    site.configure(restart_timeout_seconds=1, failures_before_restart=1)
    app.behaviour = "500"
    start = time.monotonic()
    assert site.run("check") == 1
    assert time.monotonic() - start < 5
    assert any("did not finish within 1 s" in line for line in site.lines())


def test_a_failing_restart_gives_the_words_of_systemd(site, app):
    refusal = "echo Start request repeated too quickly. >&2; exit 1"
    site.fake("systemctl", f"case $1 in show) cat {site.properties};; *) {refusal};; esac")
    site.configure(failures_before_restart=1)
    app.behaviour = "500"
    assert site.run("check") == 1
    assert any("repeated too quickly" in line for line in site.lines())


def test_a_service_stopped_by_an_operator_is_neither_asked_nor_started(site, app):
    site.systemd(ActiveState="inactive", SubState="dead")
    assert [site.run("check") for _ in range(3)] == [1, 1, 1]
    assert app.requests == []
    assert site.calls("restart") == []
    assert all("stopped by an operator" in line for line in site.lines())


def test_a_failed_service_is_restarted(site):
    site.systemd(ActiveState="failed", SubState="failed", Result="exit-code")
    assert [site.run("check"), site.run("check")] == [1, 3]


def test_a_service_that_has_just_started_is_left_alone(site, app):
    started = int((time.clock_gettime(time.CLOCK_MONOTONIC) - 5) * 1e6)
    site.systemd(ExecMainStartTimestampMonotonic=str(started))
    app.behaviour = "500"
    assert [site.run("check") for _ in range(3)] == [1, 1, 1]
    assert site.calls("restart") == []


def test_a_hold_suppresses_restarts_until_it_is_released(site, app):
    site.configure(failures_before_restart=1)
    app.behaviour = "500"
    assert site.run("hold", "300", "--reason", "deploy of v2") == 0
    assert [site.run("check"), site.run("check")] == [1, 1]
    assert site.calls("restart") == []
    assert "on hold: deploy of v2" in site.lines()[0]
    assert site.run("release-hold") == 0
    assert site.run("release-hold") == 0
    site.configure(restart_timeout_seconds=1)
    site.run("check")
    assert len(site.calls("restart")) == 1


def test_a_hold_ends_by_itself_and_with_the_boot(tmp_path):
    hold = tmp_path / "x.hold"
    store.write_hold(hold, 60, "deploy", Now(1000, "b1"))
    assert store.read_hold(hold, Now(1059, "b1")) == "deploy (1 s left)"
    assert store.read_hold(hold, Now(1060, "b1")) is None
    assert store.read_hold(hold, Now(10, "b2")) is None


def test_a_damaged_or_endless_hold_does_not_count(tmp_path):
    hold = tmp_path / "x.hold"
    for text in ("", "{", "[]", '{"until_uptime": 1e12, "boot_id": "b1", "reason": "x"}'):
        hold.write_text(text)
        assert store.read_hold(hold, Now(10, "b1")) is None


def test_a_second_check_leaves_at_once(site):
    site.run("check")
    site.lines()
    with (site.root / "run/sitectl/currents.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert site.run("check") == 0
    assert "another check is running" in site.lines()[0]
    assert site.run("check") == 0


def test_a_damaged_memory_is_an_empty_one(site):
    site.run("check")
    path = site.root / "var/lib/sitectl/currents/state.json"
    for text in ("", "{", "[]", '{"boot_id": 1}', "\x00" * 50):
        path.write_text(text)
        assert site.run("check") == 0
    assert site.state()["failures"] == 0


def test_the_last_ten_checks_are_kept(site):
    for _ in range(12):
        site.run("check")
    assert len(site.state()["checks"]) == 10


def test_a_disk_that_cannot_take_the_memory_does_not_stop_the_check(site):
    (site.root / "var").write_text("not a directory")
    assert site.run("check") == 0
    assert any("cannot save its state" in line for line in site.lines())


def test_without_a_journal_the_line_goes_to_stderr_only(site, capsys):
    site.journal.close()
    assert site.run("check") == 0
    assert "verdict=healthy" in capsys.readouterr().err


def test_a_line_break_in_a_reason_cannot_start_a_second_entry(site, app):
    site.run("hold", "60", "--reason", "a\nPRIORITY=0")
    app.behaviour = "500"
    site.run("check")
    (line,) = site.lines()
    assert len(line.splitlines()) == 3


def test_an_operators_restart_says_how_long_it_took(site, capsys):
    site.systemd(ActiveState="failed", Result="start-limit-hit")
    assert site.run("restart") == 0
    assert len(site.calls("reset-failed")) == 1
    assert "healthy again" in capsys.readouterr().err
    assert "action=operator-restart" in site.lines()[0]


def test_an_operators_restart_that_does_not_help_shows_the_last_lines(site, app, capsys):
    site.configure(restart_timeout_seconds=1)
    app.behaviour = "503"
    assert site.run("restart") == 1
    assert "the last words of the app" in capsys.readouterr().err


def test_status_is_one_screen(site, capsys):
    group = site.root / "sys/fs/cgroup/system.slice/currents.service"
    group.mkdir(parents=True)
    for name, text in {"memory.current": str(300 * 2**20), "memory.high": "838860800", "memory.max": "max"}.items():
        (group / name).write_text(text + "\n")
    (group / "cgroup.procs").write_text("4242\n4243\n4244\n99\n")
    for pid, parent in (("4242", 1), ("4243", 4242), ("4244", 4242)):
        (site.root / "proc" / pid).mkdir(parents=True)
        (site.root / "proc" / pid / "stat").write_text(f"{pid} (gun) corn) S {parent} 1 1 0\n")
    release = site.root / "srv/currents/releases/20260211-1148"
    release.mkdir(parents=True)
    (release / "release.json").write_text('{"version": "v1.2"}')
    (site.root / "srv/currents/current").symlink_to("releases/20260211-1148")
    site.run("check")
    capsys.readouterr()

    assert site.run("status") == 0
    table = capsys.readouterr().out
    for words in (
        "healthy, 200 in",
        "20260211-1148 v1.2",
        "now 300M, peak unknown, high 800M, max none",
        "workers      2",
        "journalctl -t sitectl-currents",
    ):
        assert words in table
    assert site.run("status", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["release"] == {"id": "20260211-1148", "version": "v1.2"}
    assert facts["memory_bytes"]["now"] == 300 * 2**20
    assert facts["memory_controller"] is None


@pytest.mark.parametrize(("controllers", "held"), [("cpu memory pids", True), ("cpu pids", False)])
def test_status_says_when_no_memory_limit_of_the_kernel_holds(site, capsys, controllers, held):
    (site.root / "sys/fs/cgroup").mkdir(parents=True)
    (site.root / "sys/fs/cgroup/cgroup.controllers").write_text(f"{controllers}\n")
    site.run("status")
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("memory ")]
    assert ("no limit of the kernel holds" in row) is not held
    site.run("status", "--json")
    assert json.loads(capsys.readouterr().out)["memory_controller"] is held


def test_status_of_a_host_where_nothing_can_be_read_still_prints(site, app, capsys):
    site.fake("systemctl", "exit 1")
    app.behaviour = "500"
    assert site.run("status") == 1
    table = capsys.readouterr().out
    assert "NOT HEALTHY: answered 500" in table
    assert "systemd does not answer" in table


@pytest.mark.parametrize("seconds", ["0", "3601", "nan", "soon"])
def test_a_hold_of_a_wrong_length_is_refused(site, seconds):
    with pytest.raises(SystemExit) as end:
        site.run("hold", seconds, "--reason", "x")
    assert end.value.code == 2
    assert not (site.root / "run/sitectl/currents.hold").exists()

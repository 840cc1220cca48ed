"""The units of the service role, read as systemd reads them."""

from __future__ import annotations

import pytest

from tests.unit.rendering import parse_unit, render, unit_root, value_of

PROGRAMS = (
    "/bin/sh",
    "/bin/kill",
    "/usr/local/lib/sitekeeper/before-start.sh",
    "/srv/currents/current/venv/bin/gunicorn",
)


def rendered(**settings):
    return {
        "currents.service": render("service", "app.service.j2", wired=True, **settings),
        "currents.socket": render("service", "app.socket.j2", wired=True, **settings),
    }


@pytest.fixture(scope="module")
def service():
    return parse_unit(rendered()["currents.service"])


@pytest.fixture(scope="module")
def socket():
    return parse_unit(rendered()["currents.socket"])


def test_systemd_finds_no_fault_in_the_units(tmp_path, verify):
    assert verify(unit_root(tmp_path, rendered(), PROGRAMS), "currents.service", "currents.socket") == ""


@pytest.mark.parametrize(
    "settings",
    [
        {"service_memory_max": "banana"},
        {"service_restart_delay_milliseconds": "soon"},
        {"app_port": "http"},
        {"service_open_files_max": "all"},
    ],
)
def test_systemd_would_find_a_value_that_it_cannot_read(tmp_path, verify, settings):
    root = unit_root(tmp_path, rendered(**settings), PROGRAMS)
    assert str(next(iter(settings.values()))) in verify(root, "currents.service", "currents.socket")


def test_systemd_would_find_a_program_that_is_missing(tmp_path, verify):
    root = unit_root(tmp_path, rendered(), PROGRAMS[:-1])
    assert "gunicorn" in verify(root, "currents.service")


@pytest.mark.parametrize(
    ("directive", "value"),
    [
        ("Unit.StartLimitIntervalSec", "0"),
        ("Service.Restart", "always"),
        ("Service.RestartSec", "100ms"),
    ],
)
def test_the_app_is_started_again_for_ever(service, directive, value):
    assert service[directive] == [value]


def test_the_port_is_never_closed_for_good(socket):
    assert socket["Unit.StartLimitIntervalSec"] == ["0"]


def test_a_silent_app_is_started_anew_without_cutting_off_those_who_are_served(service):
    assert service["Service.WatchdogSec"] == ["20s"]
    assert service["Service.WatchdogSignal"] == ["SIGTERM"]
    assert service["Service.NotifyAccess"] == ["main"]
    # What hangs also ignores SIGTERM: after this it is killed, and not only after the time of a graceful stop.
    assert service["Service.TimeoutAbortSec"] == ["3s"]


def test_the_app_is_up_only_when_it_says_so_itself(service):
    assert service["Service.Type"] == ["notify"]


def test_the_pause_of_a_crash_loop_does_not_use_up_the_time_to_start(service):
    assert service["Service.TimeoutStartSec"] == ["90s"]
    longer = parse_unit(rendered(service_restart_delay_max_seconds="120")["currents.service"])
    assert longer["Service.TimeoutStartSec"] == ["130s"]


def test_requests_in_flight_are_finished_when_the_app_stops(service):
    assert service["Service.KillMode"] == ["control-group"]
    assert service["Service.TimeoutStopSec"] == ["35s"]


@pytest.mark.parametrize("graceful", [60, "60"])
def test_the_stop_waits_longer_than_the_app_s_own_graceful_timeout(graceful):
    unit = parse_unit(rendered(app_graceful_timeout_seconds=graceful)["currents.service"])
    assert unit["Service.TimeoutStopSec"] == ["65s"]


def test_a_lack_of_memory_costs_one_worker_and_not_the_app(service):
    assert service["Service.OOMPolicy"] == ["continue"]
    assert service["Service.MemoryHigh"] == ["800M"]
    assert service["Service.MemoryMax"] == ["1G"]
    assert service["Service.MemorySwapMax"] == ["0"]


def test_the_socket_is_there_before_the_app(service):
    assert service["Unit.Requires"] == ["currents.socket"]
    assert "currents.socket" in service["Unit.After"][0].split()


def test_the_socket_holds_the_port_of_the_app(socket):
    assert socket["Socket.ListenStream"] == ["0.0.0.0:5555"]
    other = parse_unit(rendered(app_port="8000", app_bind_address="127.0.0.1")["currents.socket"])
    assert other["Socket.ListenStream"] == ["127.0.0.1:8000"]


@pytest.mark.parametrize("settings", [{}, {"service_listen": "/run/sitekeeper/currents.http"}])
def test_many_visitors_can_wait_while_the_app_restarts(settings):
    # Where the queue is full, a visitor's computer tries again only after a second, and a front is refused.
    assert parse_unit(rendered(**settings)["currents.socket"])["Socket.Backlog"] == ["4096"]


def test_small_answers_do_not_wait_for_more(socket):
    assert socket["Socket.NoDelay"] == ["true"]


def test_both_units_start_at_boot(service, socket):
    assert service["Install.WantedBy"] == ["multi-user.target"]
    assert socket["Install.WantedBy"] == ["sockets.target"]


def test_each_start_of_the_app_records_every_file_that_it_reads(service):
    (line,) = service["Service.ExecStartPre"]
    words = line.split()
    assert words[0] == "+/usr/local/lib/sitekeeper/before-start.sh", "the app's user may not read app.env"
    assert words[1:] == [
        "%n",
        "60",
        "/etc/systemd/system/%n",
        "/etc/currents/gunicorn.json",
        "/etc/currents/gunicorn.conf.py",
        "/etc/currents/sitekeeper",
        "/etc/currents/app.env",
        "/srv/currents/current/release.json",
    ]
    record = value_of("service", "__service_record", wired=True)
    assert record == "/run/sitekeeper/currents.service", "where before-start.sh writes it"


def test_each_start_of_the_socket_records_its_unit(socket):
    (line,) = socket["Socket.ExecStartPre"]
    record = value_of("service", "__service_socket_record", wired=True)
    assert record == "/run/sitekeeper/currents.socket"
    assert line.endswith(f"sha256sum /etc/systemd/system/%n >{record}'")


def test_the_records_outlive_the_app_s_own_directory(service):
    assert service["Service.RuntimeDirectory"] == ["currents"]
    assert not value_of("service", "__service_record", wired=True).startswith("/run/currents/")


def test_what_is_asked_of_systemd_after_the_start_is_what_the_unit_says(service):
    expected = value_of("service", "__service_expect", wired=True)
    for name in set(expected) - {"RestartUSec", "StartLimitIntervalUSec", "WatchdogUSec"}:
        assert service[f"Service.{name}"] == [expected[name]], name
    assert service["Service.RestartSec"] == [expected["RestartUSec"]]
    assert service["Service.WatchdogSec"] == [expected["WatchdogUSec"]]
    assert service["Unit.StartLimitIntervalSec"] == [expected["StartLimitIntervalUSec"]]


def test_the_app_may_write_to_its_own_directories_only(service):
    assert service["Service.ProtectSystem"] == ["strict"]
    assert "Service.ReadWritePaths" not in service
    for kind, where in (("State", "data"), ("Logs", "log"), ("Runtime", "runtime")):
        (name,) = service[f"Service.{kind}Directory"]
        above = {"data": "/var/lib", "log": "/var/log", "runtime": "/run"}[where]
        assert f"{above}/{name}" == value_of("app", f"app_{where}_dir", wired=True)


def test_nobody_else_on_the_host_reads_what_is_the_app_s(service):
    for kind in ("State", "Logs", "Runtime"):
        assert service[f"Service.{kind}DirectoryMode"] == ["0750"], kind
    assert service["Service.UMask"] == ["0077"]


def test_the_app_s_directory_of_sockets_and_locks_outlives_a_restart(service):
    assert service["Service.RuntimeDirectoryPreserve"] == ["restart"]


def test_the_app_starts_with_its_environment(service):
    assert service["Service.EnvironmentFile"] == ["/etc/currents/app.env"]


def test_a_crash_in_native_code_leaves_a_stack_and_no_core(service):
    environment = " ".join(service["Service.Environment"])
    assert {"PYTHONFAULTHANDLER=1", "PYTHONUNBUFFERED=1"} <= set(environment.split())
    assert service["Service.LimitCORE"] == ["0"]


def test_the_journal_keeps_every_line_of_a_busy_app_under_its_name(service):
    assert service["Service.LogRateLimitIntervalSec"] == ["1s"]
    assert service["Service.LogRateLimitBurst"] == ["1000000"]
    assert service["Service.SyslogIdentifier"] == ["currents"]


def test_two_apps_on_one_host_share_no_file():
    other = render("service", "app.service.j2", wired=True, app_name="wires")
    assert "currents" not in other

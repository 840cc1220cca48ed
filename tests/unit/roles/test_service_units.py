"""The units of the service role, read as systemd reads them."""

from __future__ import annotations

import pytest

from tests.unit.rendering import parse_unit, render, unit_root, value_of

PROGRAMS = ("/bin/sh", "/bin/kill", "/srv/currents/current/venv/bin/gunicorn")


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
        {"service_restart_delay_seconds": "soon"},
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


@pytest.mark.parametrize("deny", [True, False])
def test_the_app_is_locked_in_as_tightly_as_promised(tmp_path, analyze, deny):
    root = unit_root(tmp_path, rendered(service_memory_deny_write_execute=deny), PROGRAMS)
    result = analyze(root, "security", "--offline=true", "--threshold=20", "currents.service")
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("directive", "value"),
    [
        ("Unit.StartLimitIntervalSec", "0"),
        ("Service.Restart", "always"),
        ("Service.RestartSec", "1s"),
    ],
)
def test_the_app_is_started_again_for_ever(service, directive, value):
    assert service[directive] == [value]


def test_the_port_is_never_closed_for_good(socket):
    assert socket["Unit.StartLimitIntervalSec"] == ["0"]


def test_a_crash_is_followed_by_a_start_within_ten_seconds(service):
    assert int(service["Service.RestartSec"][0].removesuffix("s")) < 10


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


def test_both_units_start_at_boot(service, socket):
    assert service["Install.WantedBy"] == ["multi-user.target"]
    assert socket["Install.WantedBy"] == ["sockets.target"]


def test_each_start_of_the_app_records_every_file_that_it_reads(service):
    (line,) = service["Service.ExecStartPre"]
    assert line.startswith("+/bin/sh -c '"), "the app's user may not read app.env"
    command, _, record = line.removesuffix("'").rpartition(" >")
    assert record == value_of("service", "__service_record", wired=True) == "/run/sitekeeper/currents.service"
    assert command.partition("sha256sum ")[2].split() == [
        "/etc/systemd/system/%n",
        "/etc/currents/gunicorn.json",
        "/etc/currents/gunicorn.conf.py",
        "/etc/currents/app.env",
        "/srv/currents/current/release.json",
    ]


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
    for name in set(expected) - {"RestartUSec", "StartLimitIntervalUSec"}:
        assert service[f"Service.{name}"] == [expected[name]], name
    assert service["Service.RestartSec"] == [expected["RestartUSec"]]
    assert service["Unit.StartLimitIntervalSec"] == [expected["StartLimitIntervalUSec"]]


def test_the_app_may_write_to_its_own_directories_only(service):
    assert service["Service.ProtectSystem"] == ["strict"]
    assert "Service.ReadWritePaths" not in service
    for kind, where in (("State", "data"), ("Logs", "log"), ("Runtime", "runtime")):
        (name,) = service[f"Service.{kind}Directory"]
        above = {"data": "/var/lib", "log": "/var/log", "runtime": "/run"}[where]
        assert f"{above}/{name}" == value_of("app", f"app_{where}_dir", wired=True)


def test_two_apps_on_one_host_share_no_file():
    other = render("service", "app.service.j2", wired=True, app_name="wires")
    assert "currents" not in other

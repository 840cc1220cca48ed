"""The front's units and configuration, read as systemd and haproxy read them; and how it is wired to the app."""

from __future__ import annotations

import shlex
import subprocess

import pytest

from plugins.module_utils.site_check import load_specs, problems_of
from plugins.module_utils.site_problem import Settings
from tests.polling import PATIENCE_SECONDS
from tests.unit.rendering import (
    REPOSITORY,
    ROLES,
    options,
    parse_unit,
    read_yaml,
    render,
    role_file,
    unit_root,
    value_of,
)
from tests.unit.roles.front_site import haproxy

SERVICE, SOCKET = "currents-front.service", "currents-front.socket"
PROGRAMS = ("/bin/sh", "/usr/sbin/haproxy")
ON = {"front": "haproxy"}
SPECS = load_specs([ROLES])
SOUND = {
    "app_name": "currents",
    "app_source": "examples/currents",
    "app_port": 5555,
    "front": "haproxy",
    "front_enabled": True,
    "front_port": 5555,
    "front_upstream": "/run/sitekeeper/currents.http",
    "service_listen": "/run/sitekeeper/currents.http",
}


def rendered(**settings):
    return {
        SERVICE: render("front", "front.service.j2", wired=True, **ON, **settings),
        SOCKET: render("front", "front.socket.j2", wired=True, **ON, **settings),
    }


def app_socket(**settings):
    return parse_unit(render("service", "app.socket.j2", wired=True, **settings))


@pytest.fixture(scope="module")
def service():
    return parse_unit(rendered()[SERVICE])


@pytest.fixture(scope="module")
def socket():
    return parse_unit(rendered()[SOCKET])


@pytest.fixture
def check(tmp_path):
    """Let haproxy judge the configuration with the command that the role gives it to; nothing is said of a good one."""
    config_task = role_file("front", "tasks/run.yml")[0]
    command = config_task["config_files"]["files"][0]["validate"]

    def run(**settings):
        path = tmp_path / "front.cfg"
        path.write_text(render("front", "front.cfg.j2", wired=True, **ON, **settings))
        words = command
        for name in ("front_address", "front_port", "__front_program"):
            words = words.replace(f"{{{{ {name} }}}}", str(value_of("front", name, wired=True)))
        words = [word.replace("%s", str(path)).replace(PROGRAMS[1], haproxy()) for word in shlex.split(words)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
        said = done.stdout + done.stderr
        return "" if done.returncode == 0 and "WARNING" not in said else said or f"exit code {done.returncode}"

    return run


# Units


def test_systemd_finds_no_fault_in_the_units(tmp_path, verify):
    assert verify(unit_root(tmp_path, rendered(), PROGRAMS), SERVICE, SOCKET) == ""


@pytest.mark.parametrize(
    "settings",
    [{"front_memory_max": "banana"}, {"front_stop_timeout_seconds": "-7"}, {"app_port": "http"}],
)
def test_systemd_would_find_a_value_that_it_cannot_read(tmp_path, verify, settings):
    assert verify(unit_root(tmp_path, rendered(**settings), PROGRAMS), SERVICE, SOCKET)


def test_haproxy_is_locked_in_as_tightly_as_promised(tmp_path, analyze):
    root = unit_root(tmp_path, rendered(), PROGRAMS)
    result = analyze(root, "security", "--offline=true", "--threshold=9", SERVICE)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("directive", "value"),
    [
        ("Unit.StartLimitIntervalSec", "0"),
        ("Unit.Requires", SOCKET),
        ("Unit.After", SOCKET),
        ("Service.Restart", "always"),
        # On SIGTERM haproxy breaks off what is in flight.
        ("Service.KillSignal", "SIGUSR1"),
        ("Service.User", "haproxy"),
        # The first file that systemd hands over.
        ("Service.Environment", "FRONT_BIND=fd@3"),
        ("Service.PrivateNetwork", "yes"),
        ("Service.MemoryMax", "128M"),
        ("Install.WantedBy", "multi-user.target"),
    ],
)
def test_haproxy_runs_for_ever_and_takes_over_the_port(service, directive, value):
    assert service[directive] == [value]


def test_haproxy_may_finish_what_is_in_flight_before_it_is_killed():
    unit = parse_unit(rendered(front_stop_timeout_seconds="60")[SERVICE])
    assert unit["Service.TimeoutStopSec"] == ["65s"]
    assert "hard-stop-after 60s" in render("front", "front.cfg.j2", wired=True, front_stop_timeout_seconds="60")


def test_the_port_is_held_by_systemd_and_never_closed_for_good(socket):
    assert socket["Socket.ListenStream"] == ["0.0.0.0:5555"]
    assert socket["Socket.Backlog"] == ["4096"]
    assert socket["Socket.NoDelay"] == ["true"]
    assert socket["Unit.StartLimitIntervalSec"] == ["0"]
    assert socket["Install.WantedBy"] == ["sockets.target"]


def test_each_start_records_everything_that_the_process_starts_with(service, socket):
    (line,) = service["Service.ExecStartPre"]
    assert line.startswith("+/bin/sh -c '"), "the user haproxy may not look into the app's settings"
    assert line.partition("sha256sum ")[2].split() == [
        "/etc/systemd/system/%n",
        "/etc/currents/front.cfg",
        "/usr/sbin/haproxy",
        f">{value_of('front', '__front_record', wired=True)}'",
    ]
    (line,) = socket["Socket.ExecStartPre"]
    assert line.endswith(f"sha256sum /etc/systemd/system/%n >{value_of('front', '__front_socket_record', wired=True)}'")


def test_haproxy_reads_the_file_that_the_role_writes(service):
    assert service["Service.LoadCredential"] == [f"front.cfg:{value_of('front', '__front_config', wired=True)}"]
    assert service["Service.ExecStart"] == ["/usr/sbin/haproxy -db -f ${CREDENTIALS_DIRECTORY}/front.cfg"]


def test_what_is_asked_of_systemd_after_the_start_is_what_the_unit_says(service):
    expected = value_of("front", "__front_expect", wired=True)
    assert expected.pop("KillSignal") == 10
    assert service["Unit.StartLimitIntervalSec"] == [expected.pop("StartLimitIntervalUSec")]
    for name, value in expected.items():
        assert service[f"Service.{name}"] == [value], name


def test_haproxy_may_open_all_that_its_visitors_need():
    unit = parse_unit(rendered(front_maxconn="500")[SERVICE])
    assert int(unit["Service.LimitNOFILE"][0]) > 2 * 500


def test_two_apps_on_one_host_share_no_file():
    other = "\n".join(
        [*rendered(app_name="wires").values(), render("front", "front.cfg.j2", wired=True, app_name="wires")]
    )
    assert "currents" not in other


# Configuration


def test_haproxy_finds_no_fault_in_its_configuration(check):
    assert check() == ""
    assert check(front_trusted_sources=["127.0.0.0/8", "10.1.2.3"]) == ""


@pytest.mark.parametrize(
    "settings",
    [
        {"front_stop_timeout_seconds": "long"},
        {"front_queue_timeout_seconds": "long"},
        {"front_trusted_sources": ["me"]},
    ],
)
def test_haproxy_would_find_a_value_that_it_cannot_read(check, settings):
    assert "ALERT" in check(**settings)


def test_visitors_wait_longer_than_an_app_needs_to_restart():
    waits = {name: options("front")[f"front_{name}_timeout_seconds"]["default"] for name in ("queue", "server")}
    start = options("service")["service_start_timeout_seconds"]["default"]
    assert min(waits.values()) >= max(60, start)
    text = render("front", "front.cfg.j2", wired=True)
    assert f"timeout queue {waits['queue']}s" in text
    assert f"timeout connect {waits['queue']}s" in text
    assert f"timeout server {waits['server']}s" in text


@pytest.mark.parametrize(("workers", "threads"), [(2, 8), ("2", "8")])
def test_the_app_gets_as_many_requests_as_it_has_threads(workers, threads):
    assert value_of("front", "front_server_maxconn", wired=True, app_workers=workers, app_threads=threads) == 16


# How the app makes room


def test_without_a_front_the_app_has_the_port():
    assert value_of("front", "front_enabled", wired=True) is False
    unit = app_socket()
    assert unit["Socket.ListenStream"] == ["0.0.0.0:5555"]
    assert not {"Socket.SocketGroup", "Socket.SocketMode"} & set(unit)


def test_behind_a_front_the_app_listens_where_only_haproxy_may_connect(service):
    unit = app_socket(**ON)
    assert value_of("front", "front_enabled", wired=True, **ON) is True
    assert unit["Socket.ListenStream"] == [value_of("front", "front_upstream", wired=True, **ON)]
    assert (unit["Socket.SocketUser"], unit["Socket.SocketMode"]) == (["currents"], ["0660"])
    assert unit["Socket.SocketGroup"] == service["Service.Group"] == ["haproxy"]
    assert unit["Socket.Backlog"] == ["4096"]
    assert "Socket.NoDelay" not in unit, "systemd would warn of it"


def test_systemd_finds_no_fault_in_the_app_s_socket_behind_a_front(tmp_path, verify):
    name = "currents.socket"
    units = {
        name: render("service", "app.socket.j2", wired=True, **ON),
        "currents.service": "[Service]\nExecStart=/bin/sh\n",
    }
    assert verify(unit_root(tmp_path, units, ("/bin/sh",)), name) == ""


def test_the_app_s_health_is_asked_where_it_listens():
    asked = "__service_health_url"
    assert value_of("service", asked, wired=True) == "http://127.0.0.1:5555/health"
    assert value_of("service", asked, wired=True, **ON) == "unix:/run/sitekeeper/currents.http:/health"


def test_the_app_s_socket_moves_once_the_release_is_proven_and_right_after_the_front_has_let_go():
    together, in_turns = [play for play in read_yaml(REPOSITORY / "playbooks/deploy.yml") if play.get("tasks")][:2]
    for tasks, proof in ((together["tasks"], "main.yml"), (in_turns["tasks"][1]["block"], "switch.yml")):
        order = roles_of(tasks)
        let_go = order.index(("front", "give_back.yml"))
        assert order.index(("release", proof)) < let_go
        assert order[let_go + 1 : let_go + 3] == [("service", "run.yml"), ("front", "serve.yml")]
    order = roles_of(together["tasks"])
    assert order.index(("front", "prepare.yml")) < order.index(("service", "install.yml"))


def roles_of(tasks):
    """Return which part of which role the tasks of a play run, in their order."""
    roles = [task["ansible.builtin.import_role"] for task in tasks if "ansible.builtin.import_role" in task]
    return [(role["name"], role.get("tasks_from", "main.yml")) for role in roles]


def test_the_package_s_own_service_is_only_touched_where_the_package_is_new():
    first, fresh = role_file("front", "tasks/install.yml")
    assert "site_stat" in first
    assert fresh["when"] == f"not {first['register']}.stat.exists"
    apt, service = fresh["block"]
    assert apt["site_apt"]["policy_rc_d"] == 101
    assert service["ansible.builtin.systemd_service"] == {"name": "haproxy.service", "enabled": False}


# Settings that do not go together


def faults(*others, **settings):
    mine = Settings("currents", "192.0.2.1:22", {**SOUND, **settings})
    return {problem.name: problem.fault for problem in problems_of(mine, others, SPECS, REPOSITORY)}


def test_a_sound_site_with_a_front_is_accepted():
    assert faults() == {}
    assert faults(front="none", front_enabled=False, service_listen="") == {}


@pytest.mark.parametrize(
    ("settings", "name", "words"),
    [
        ({"front": "nginx"}, "front", 'is "nginx": must be none or haproxy'),
        ({"front": True}, "front", "must be none or haproxy"),
        ({"front_prot": 1}, "front_prot", "did you mean front_port?"),
        ({"front": "none"}, "front_enabled", "is true, but front is none"),
        ({"front_enabled": False}, "front_enabled", "is false, but front is haproxy"),
        ({"service_listen": ""}, "service_listen", "both would want the port"),
        ({"front_upstream": "/run/other.http"}, "front_upstream", "listens on /run/sitekeeper/currents.http"),
        ({"front_upstream": "/run/" + "a" * 99}, "front_upstream", "at most 103 characters"),
        ({"front_upstream": "/tmp/app.http"}, "front_upstream", "below /run"),
        ({"front_port": 8000}, "front_port", "app_port is 5555"),
        ({"front_server_timeout_seconds": 30}, "front_server_timeout_seconds", "from 60 to 3600"),
        (
            {"app_request_limit_seconds": 600},
            "front_server_timeout_seconds",
            "at least app_request_limit_seconds (600)",
        ),
        ({"front_trusted_sources": ["everybody"]}, "front_trusted_sources", "IPv4 addresses and networks"),
        ({"app_name": "haproxy"}, "app_name", "no name of the system"),
    ],
)
def test_what_cannot_work_is_refused_with_what_to_do(settings, name, words):
    assert words in faults(**settings)[name]


def test_another_app_may_not_bear_the_name_of_the_front_on_the_same_machine():
    other = Settings("other", "192.0.2.1:22", {"app_name": "currents-front", "app_port": 8000})
    assert "whose front is currents-front.service" in faults(other)["app_name"]
    assert faults(other, front="none", front_enabled=False, service_listen="") == {}
    assert faults(Settings("other", "192.0.2.2:22", other.values)) == {}

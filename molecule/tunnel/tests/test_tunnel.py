"""The tunnel on a host: a real agent, an edge on the controller, and visitors who come through it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.edge.client import RunningEdge, until

DOMAIN = "site.example.com"
TOKEN = "2testtokenTESTTOKENtesttoken_3testtokenTESTTOKEN"
UNIT = "ngrok.service"
HEAL_SECONDS = 60  # of a machine that QEMU emulates in software
HAMMER_SECONDS = 60
BOOT_SECONDS = 300


@pytest.fixture(scope="module")
def edge() -> RunningEdge:
    return RunningEdge(Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "edge")


@pytest.fixture(autouse=True)
def healthy(edge, host):
    """Each test begins and ends with a tunnel that is online."""
    until("the tunnel is online", HEAL_SECONDS, lambda: online(edge))
    yield
    edge.control.refuse()
    edge.control.online()
    until("the tunnel is online again", 2 * HEAL_SECONDS, lambda: online(edge))


def online(edge: RunningEdge) -> bool:
    return edge.control.state()["online"] == [DOMAIN]


def show(host, name: str) -> str:
    return host.check_output("systemctl show --property=%s --value %s", name, UNIT)


def agent_pid(host) -> str:
    """The agent itself: the runner is the unit's main process."""
    return host.check_output("pgrep --parent %s", show(host, "MainPID"))


def journal(host) -> str:
    with host.sudo():
        return host.check_output("journalctl --boot --quiet --output=cat --unit=%s", UNIT)


def test_agent_runs_and_starts_at_boot(host):
    service = host.service("ngrok")
    assert service.is_running
    assert service.is_enabled


def test_visitor_reaches_the_app_through_the_tunnel(edge):
    status, error, _ = edge.get(DOMAIN, "/health")
    assert (status, error) == (200, "")


def test_configuration_is_for_the_agent_only(host):
    with host.sudo():
        file = host.file("/etc/ngrok/ngrok.yml")
        assert (file.mode, file.user) == (0o600, "ngrok")
        assert TOKEN in file.content_string


def test_agent_has_no_rights(host):
    with host.sudo():
        status = host.file(f"/proc/{agent_pid(host)}/status").content_string
    user = host.check_output("id --user ngrok")
    assert f"Uid:\t{user}\t{user}\t{user}\t{user}" in status
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status


def test_agents_interface_is_on_the_loopback_only(host):
    assert host.socket("tcp://127.0.0.1:4040").is_listening
    assert not host.socket("tcp://0.0.0.0:4040").is_listening


@pytest.mark.parametrize(
    "command",
    [f"systemctl show {UNIT}", f"systemctl cat {UNIT}", f"systemctl status {UNIT}", "ps -eo args", "ps eww -e"],
)
def test_token_is_nowhere_to_be_seen(host, command):
    assert TOKEN not in host.run(command).stdout


def test_token_is_in_no_environment_and_no_command_line(host):
    with host.sudo():
        found = host.run("grep --text --files-with-matches %s /proc/[0-9]*/environ", TOKEN[:-4] + "[O]KEN")
    assert found.stdout == ""


def test_killed_agent_is_back_within_ten_seconds(host, edge):
    """By the machine's own clock: each question to an emulated machine takes seconds of its own."""
    before, restarts = agent_pid(host), int(show(host, "NRestarts"))
    with host.sudo():
        killed = float(host.check_output("cat /proc/uptime && kill -9 %s", before).split()[0])
    until("another agent runs", HEAL_SECONDS, lambda: show(host, "ActiveState") == "active" and new_agent(host, before))
    until("the tunnel is online", HEAL_SECONDS, lambda: online(edge))
    # Only now: what the runner starts first may be gone again.
    assert started(host, agent_pid(host)) - killed < 10
    assert int(show(host, "NRestarts")) == restarts + 1
    assert edge.get(DOMAIN, "/health")[0] == 200


def started(host, pid: str) -> float:
    """When a process began, in seconds since the machine's boot (proc(5), stat: starttime)."""
    ticks = host.check_output("cut --delimiter=' ' --fields=22 /proc/%s/stat", pid)
    return int(ticks) / int(host.check_output("getconf CLK_TCK"))


def new_agent(host, before: str) -> bool:
    found = host.run("pgrep --parent %s", show(host, "MainPID"))
    return found.rc == 0 and found.stdout.strip() not in ("", before)


def test_killed_runner_leaves_no_agent_behind(host, edge):
    before = agent_pid(host)
    with host.sudo():
        killed = float(host.check_output("cat /proc/uptime && kill -9 %s", show(host, "MainPID")).split()[0])
    until("another agent runs", HEAL_SECONDS, lambda: show(host, "ActiveState") == "active" and new_agent(host, before))
    until("the tunnel is online", HEAL_SECONDS, lambda: online(edge))
    assert started(host, agent_pid(host)) - killed < 10
    assert host.check_output("pgrep --count --exact ngrok") == "1"


def test_dropped_session_comes_back_without_a_restart(host, edge):
    before = agent_pid(host)
    auths = len(edge.control.state()["auths"])
    edge.control.drop()
    until("the agent has connected anew", HEAL_SECONDS, lambda: len(edge.control.state()["auths"]) > auths)
    until("the tunnel is online", HEAL_SECONDS, lambda: online(edge))
    assert agent_pid(host) == before


def test_refused_token_is_tried_again_slowly_and_never_logged(host, edge):
    edge.control.refuse(auth="107")
    seen = len(edge.control.state()["auths"])
    with host.sudo():
        host.check_output("systemctl restart %s", UNIT)
    until("the token was refused", HEAL_SECONDS, lambda: "107" in edge.control.state()["auths"][seen:])
    began = time.monotonic()
    until("a minute has passed", HAMMER_SECONDS + 30, lambda: time.monotonic() - began > HAMMER_SECONDS)
    assert 1 <= len(edge.control.state()["auths"]) - seen <= 3
    text = journal(host)
    assert "Your authtoken: [redacted]" in text
    assert "ERR_NGROK_107: the token is refused" in text
    assert TOKEN not in text
    assert "ERR_NGROK_107" in show(host, "StatusText")


def test_refusal_of_a_running_agent_shows_in_the_status_and_the_agent_lives_on(host, edge):
    before = agent_pid(host)
    edge.control.refuse(auth="108")
    edge.control.drop()
    until("the status says it", HEAL_SECONDS, lambda: "ERR_NGROK_108" in show(host, "StatusText"))
    edge.control.refuse()
    until("the status is good again", HEAL_SECONDS, lambda: show(host, "StatusText") == "connected to ngrok")
    assert agent_pid(host) == before


def test_tunnel_heals_once_the_refusal_is_over(edge):
    edge.control.refuse(bind="334")
    edge.control.drop()
    until("the agent was refused", HEAL_SECONDS, lambda: edge.control.state()["binds"][-1] == "334")
    edge.control.refuse()
    until("the tunnel is online", HEAL_SECONDS, lambda: online(edge))


def test_tunnel_heals_after_a_boot_without_the_edge(host, edge):
    boot = host.check_output("cat /proc/sys/kernel/random/boot_id")
    edge.control.offline()
    with host.sudo():
        # Not at once: the connection that asks for it would break.
        host.check_output("systemd-run --on-active=2 systemctl reboot")

    def rebooted() -> bool:
        try:
            answer = host.run("cat /proc/sys/kernel/random/boot_id")
        except RuntimeError:  # ssh has no connection
            return False
        return answer.rc == 0 and answer.stdout.strip() not in ("", boot)

    until("the host has booted", BOOT_SECONDS, rebooted)
    until("the agent keeps trying", HEAL_SECONDS, lambda: "connection refused" in journal(host))
    assert show(host, "ActiveState") == "active"
    edge.control.online()
    until("the tunnel is online", 2 * HEAL_SECONDS, lambda: online(edge))
    until("the app answers", HEAL_SECONDS, lambda: edge.get(DOMAIN, "/health")[0] == 200)

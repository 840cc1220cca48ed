"""What machines of both kinds have in common, and what only one of them can do: `make test ONLY=lab`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lab.container import Container
from lab.kinds import CONTAINER, VM, memory_controller
from lab.paths import Home

Place = dict[str, Any]
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
# An image may have to be built first.
pytestmark = pytest.mark.timeout(5400)


def of_kind(kind: str) -> pytest.MarkDecorator:
    """Run a test with machines of one kind only."""
    return pytest.mark.parametrize("kind", [kind], indirect=True)


def computer() -> str:
    """The network of this computer: its interfaces, and its firewall's rules where it has some."""
    links = subprocess.run(["ip", "-o", "-brief", "link"], capture_output=True, text=True, check=True).stdout
    rules = Path("/proc/net/ip_tables_names")
    return links + (rules.read_text() if rules.exists() else "")


def test_up_again_returns_the_same_machine(lab, one: Place, kind: str):
    assert json.loads(lab.up(one["name"], kind)) == one


def test_another_definition_is_refused(lab, one: Place, kind: str):
    assert "memory_mib is 1024, not 512" in lab("up", one["name"], "--kind", kind, "--memory", "512", expect=2)


def test_the_guest_is_a_booted_systemd_with_cgroup_v2(lab, one: Place, kind: str):
    answer = lab(
        "ssh", one["name"], "ps -p 1 -o comm=; stat -f -c %T /sys/fs/cgroup; cat /sys/fs/cgroup/cgroup.controllers"
    )
    assert answer.split()[:2] == ["systemd", "cgroup2fs"]
    assert ("memory" in answer.split()[2:]) is ("memory" in one["can"]), "it says what it can"
    assert ("memory" in one["can"]) is (kind == VM or memory_controller())
    assert lab("ssh", one["name"], "systemctl is-system-running --wait").strip() == "running"
    assert lab("ssh", one["name"], "systemctl --failed --no-legend").strip() == ""


def test_its_addresses_are_the_same_whatever_its_kind(lab, one: Place):
    answer = lab("ssh", one["name"], "ip -4 -o address; ip route; cat /etc/resolv.conf")
    for address in ("10.0.2.15/24", "default via 10.0.2.2", "nameserver 10.0.2.3", f"{one['lan_address']}/24"):
        assert address in answer


def test_the_guest_reaches_this_computers_loopback_at_its_gateway(lab, one: Place):
    server = subprocess.Popen(
        [sys.executable, "-c", "import socket; s = socket.create_server(('127.0.0.1', 0)); "
         "print(s.getsockname()[1], flush=True); s.accept()[0].sendall(b'from outside')"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdout is not None
    port = server.stdout.readline().strip()
    script = f"import socket; print(socket.create_connection(('10.0.2.2', {port}), 20).recv(20).decode())"
    try:
        assert lab("ssh", one["name"], f'python3 -c "{script}"').strip() == "from outside"
    finally:
        server.kill()
        server.wait()


def test_the_guests_clock_is_right(lab, one: Place):
    there = int(lab("ssh", one["name"], "date +%s"))
    assert abs(there - time.time()) < 15


def test_the_status_of_a_command_passes_through(lab, one: Place):
    lab("ssh", one["name"], "exit 37", expect=37)
    lab("ssh", one["name"], "exit 255", expect=255)


def test_two_machines_meet_on_their_lan(lab, one: Place, two: Place):
    assert one["lan_address"] != two["lan_address"]
    script = "import socket,sys; print(socket.create_connection((sys.argv[1], 22), 20).recv(4).decode())"
    assert "SSH-" in lab("ssh", one["name"], f"python3 -c '{script}' {two['lan_address']}")
    assert "SSH-" in lab("ssh", two["name"], f"python3 -c '{script}' {one['lan_address']}")


def test_two_machines_have_different_identities(lab, one: Place, two: Place):
    show = "cat /etc/machine-id; uname -n; cat /etc/ssh/ssh_host_ed25519_key.pub"
    first, second = lab("ssh", one["name"], show).split(), lab("ssh", two["name"], show).split()
    assert first[1] == one["name"]
    assert second[1] == two["name"]
    assert first[0] != second[0]
    assert first[3] != second[3]


def test_a_host_key_of_another_machine_is_refused(lab, one: Place, two: Place):
    known_hosts = Path(one["known_hosts"])
    mine, theirs = known_hosts.read_text(), Path(two["known_hosts"]).read_text()
    known_hosts.write_text(f"{mine.split()[0]} {theirs.split(None, 1)[1]}")
    try:
        lab("ssh", one["name"], "true", expect=255)
    finally:
        known_hosts.write_text(mine)


def test_reboot_changes_the_boot_id_and_keeps_the_address_and_the_files(lab, one: Place, kind: str):
    before = lab("ssh", one["name"], f"echo kept > kept; {BOOT_ID}")
    lab("reboot", one["name"])
    assert lab("ssh", one["name"], BOOT_ID) != before
    assert lab("ssh", one["name"], "cat kept").strip() == "kept"
    assert json.loads(lab.up(one["name"], kind)) == one


@of_kind(VM)
def test_cut_power_keeps_what_was_synced_and_loses_what_was_running(lab, one: Place, kind: str):
    lab("ssh", one["name"], "echo kept > kept && sync kept && echo gone > /dev/shm/gone")
    before = lab("ssh", one["name"], BOOT_ID)
    lab("cut-power", one["name"])
    assert lab("ssh", one["name"], "cat kept").strip() == "kept"
    lab("ssh", one["name"], "test -e /dev/shm/gone", expect=1)
    assert lab("ssh", one["name"], BOOT_ID) != before
    assert json.loads(lab.up(one["name"], kind)) == one


@of_kind(CONTAINER)
def test_the_power_of_a_container_is_not_cut(lab, one: Place):
    before = lab("ssh", one["name"], BOOT_ID)
    assert "page cache" in lab("cut-power", one["name"], expect=2)
    assert lab("ssh", one["name"], BOOT_ID) == before


def test_a_unit_that_is_killed_lives_on_under_its_name_in_the_other_machine(lab, one: Place, two: Place):
    for place in (one, two):
        lab("ssh", place["name"], "sudo systemd-run --quiet --unit=same sleep 1000")
    lab("ssh", one["name"], "sudo systemctl kill --signal=KILL same.service")
    lab("ssh", one["name"], "systemctl is-active --quiet same.service", expect=3)
    lab("ssh", two["name"], "systemctl is-active --quiet same.service && sudo systemctl stop same.service")


@of_kind(CONTAINER)
def test_a_container_touches_nothing_of_this_computers_network_and_leaves_nothing(lab, kind: str):
    before, names = computer(), set(Path("/run/netns").iterdir())
    place = json.loads(lab.up("guest", kind))
    made = set(Path("/run/netns").iterdir()) - names
    assert made, "its network is a namespace"
    assert computer() == before
    assert "alone" in lab("ssh", place["name"], "hostname; echo alone")
    lab("down", place["name"])
    assert set(Path("/run/netns").iterdir()) == names
    assert computer() == before


@of_kind(CONTAINER)
def test_a_container_whose_starter_was_killed_is_removed_whole(lab, kind: str):
    lab.up("orphan", kind)
    home = Home(lab.home)
    container = Container(home, "orphan", home.machine("orphan"))
    starters = container._starters()
    for pid in starters:
        os.kill(pid, signal.SIGKILL)
    assert container.pid is None
    assert container._processes(), "systemd-nspawn leaves what it has started"
    assert "orphan removed" in lab("down", "orphan")
    assert not container._processes()
    assert not container.directory.exists()


def test_a_lost_machine_is_told_apart_from_a_failed_command(lab, two: Place):
    name = two["name"]
    lab("ssh", name, "exit 1", expect=1)
    pid = lab.machine(name).pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    message = lab("ssh", name, "true", expect=4)
    assert f"The machine {name} is lost" in message
    assert f"down {name}" in message
    assert "stopped" in lab("list")
    lab("status", name, expect=3)


def test_a_stopped_machine_is_started_again_with_its_ports(lab, two: Place, kind: str):
    pid = lab.machine(two["name"]).pid
    if pid:
        os.kill(pid, signal.SIGKILL)
    assert json.loads(lab.up(two["name"], kind)) == two


@of_kind(VM)
def test_a_kernel_panic_is_noticed_long_before_the_deadline(lab, two: Place, kind: str):
    lab.up(two["name"], kind)
    subprocess.run(
        [sys.executable, "-m", "lab", "ssh", two["name"], "echo c | sudo tee /proc/sysrq-trigger"],
        env={**os.environ, "LAB_HOME": str(lab.home)},
        timeout=300,
        check=False,
        capture_output=True,
    )
    assert lab.machine(two["name"]).pid
    assert "panic" in lab.up(two["name"], kind, expect=4)


def test_down_leaves_nothing(lab, one: Place):
    machine = lab.machine(one["name"])
    assert machine.pid
    lab("down", one["name"])
    assert machine.pid is None
    assert not machine.directory.exists()
    assert one["name"] not in lab("list")


def test_down_removes_a_half_made_machine(lab):
    half = Home(lab.home).machine("half")
    half.mkdir(parents=True)
    (half / "disk.qcow2").write_text("not finished")
    assert "half-made" in lab("list")
    lab("down", "half")
    assert not half.exists()

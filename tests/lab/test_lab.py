"""The lab itself, with real machines: `pytest tests/lab`. Takes a few minutes without KVM.

Everything happens in a home of its own, but the images and packages of the usual home are used when they
are there, so that nothing is built twice.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.machine import Machine
from lab.paths import Home

IMAGE = os.environ.get("LAB_TEST_IMAGE", "debian12")
# An image may have to be built first.
pytestmark = pytest.mark.timeout(5400)


class Lab:
    """The command line, run as a user runs it."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def __call__(self, *arguments: str, expect: int = 0) -> str:
        result = subprocess.run(
            [sys.executable, "-m", "lab", *arguments],
            env={**os.environ, "LAB_HOME": str(self.home)},
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert result.returncode == expect, f"{arguments}: {result.returncode}\n{result.stdout}\n{result.stderr}"
        return result.stdout if not expect else result.stderr

    def up(self, name: str) -> dict[str, Any]:
        return json.loads(
            self("up", name, "--image", IMAGE, "--memory", "1024", "--network", "wire", "--forward", "5555", "--json")
        )


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    home = tmp_path_factory.mktemp("lab")
    usual = Home.from_environment()
    for shared in (usual.images, usual.packages, usual.keys):
        shared.mkdir(parents=True, exist_ok=True)
        (home / shared.name).symlink_to(shared)
    lab = Lab(home)
    yield lab
    for name in Home(home).machine_names():
        lab("down", name)


@pytest.fixture(scope="module")
def one(lab: Lab) -> dict[str, Any]:
    return lab.up("one")


@pytest.fixture(scope="module")
def two(lab: Lab) -> dict[str, Any]:
    return lab.up("two")


def test_up_again_returns_the_same_machine(lab: Lab, one: dict[str, Any]):
    assert lab.up("one") == one


def test_another_definition_is_refused(lab: Lab, one: dict[str, Any]):
    assert "memory_mib is 1024, not 512" in lab("up", "one", "--image", IMAGE, "--memory", "512", expect=2)


def test_the_guest_is_a_booted_systemd_with_cgroup_v2(lab: Lab, one: dict[str, Any]):
    answer = lab("ssh", "one", "ps -p 1 -o comm=; stat -f -c %T /sys/fs/cgroup; cat /sys/fs/cgroup/cgroup.controllers")
    assert answer.split()[:2] == ["systemd", "cgroup2fs"]
    assert "memory" in answer.split()
    assert lab("ssh", "one", "systemctl --failed --no-legend").strip() == ""


def test_the_guests_clock_is_right(lab: Lab, one: dict[str, Any]):
    there = int(lab("ssh", "one", "date +%s"))
    assert abs(there - time.time()) < 15


def test_the_status_of_a_command_passes_through(lab: Lab, one: dict[str, Any]):
    lab("ssh", "one", "exit 37", expect=37)
    lab("ssh", "one", "exit 255", expect=255)


def test_two_machines_meet_on_their_lan(lab: Lab, one: dict[str, Any], two: dict[str, Any]):
    assert one["lan_address"] != two["lan_address"]
    script = "import socket,sys; print(socket.create_connection((sys.argv[1], 22), 20).recv(4).decode())"
    assert "SSH-" in lab("ssh", "one", f"python3 -c '{script}' {two['lan_address']}")
    assert "SSH-" in lab("ssh", "two", f"python3 -c '{script}' {one['lan_address']}")


def test_two_machines_have_different_identities(lab: Lab, one: dict[str, Any], two: dict[str, Any]):
    show = "cat /etc/machine-id /etc/hostname /etc/ssh/ssh_host_ed25519_key.pub"
    first, second = lab("ssh", "one", show).split(), lab("ssh", "two", show).split()
    assert first[1] == "one"
    assert second[1] == "two"
    assert first[0] != second[0]
    assert first[3] != second[3]


def test_a_host_key_of_another_machine_is_refused(lab: Lab, one: dict[str, Any], two: dict[str, Any]):
    known_hosts = Path(one["known_hosts"])
    mine, theirs = known_hosts.read_text(), Path(two["known_hosts"]).read_text()
    known_hosts.write_text(f"{mine.split()[0]} {theirs.split(None, 1)[1]}")
    try:
        lab("ssh", "one", "true", expect=255)
    finally:
        known_hosts.write_text(mine)


def test_reboot_changes_the_boot_id_and_keeps_the_address(lab: Lab, one: dict[str, Any]):
    before = lab("ssh", "one", "cat /proc/sys/kernel/random/boot_id")
    lab("reboot", "one")
    assert lab("ssh", "one", "cat /proc/sys/kernel/random/boot_id") != before
    assert lab.up("one") == one


def test_cut_power_keeps_what_was_synced_and_loses_what_was_running(lab: Lab, one: dict[str, Any]):
    lab("ssh", "one", "echo kept > kept && sync kept && echo gone > /dev/shm/gone")
    before = lab("ssh", "one", "cat /proc/sys/kernel/random/boot_id")
    lab("cut-power", "one")
    assert lab("ssh", "one", "cat kept").strip() == "kept"
    lab("ssh", "one", "test -e /dev/shm/gone", expect=1)
    assert lab("ssh", "one", "cat /proc/sys/kernel/random/boot_id") != before
    assert lab.up("one") == one


def test_a_lost_machine_is_told_apart_from_a_failed_command(lab: Lab, two: dict[str, Any]):
    lab("ssh", "two", "exit 1", expect=1)
    pid = Machine(Home(lab.home), "two").pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    message = lab("ssh", "two", "true", expect=4)
    assert "The machine two is lost" in message
    assert "down two" in message
    assert "stopped" in lab("list")
    lab("status", "two", expect=3)


def test_a_kernel_panic_is_noticed_long_before_the_deadline(lab: Lab, two: dict[str, Any]):
    lab.up("two")
    machine = Machine(Home(lab.home), "two")
    subprocess.run(
        [sys.executable, "-m", "lab", "ssh", "two", "echo c | sudo tee /proc/sysrq-trigger"],
        env={**os.environ, "LAB_HOME": str(lab.home)},
        timeout=300,
        check=False,
        capture_output=True,
    )
    assert machine.pid
    message = lab("up", "two", "--image", IMAGE, "--memory", "1024", "--network", "wire", "--forward", "5555", expect=4)
    assert "panic" in message


def test_down_leaves_nothing(lab: Lab, one: dict[str, Any]):
    machine = Machine(Home(lab.home), "one")
    assert machine.pid
    lab("down", "one")
    assert machine.pid is None
    assert not machine.directory.exists()
    assert "one" not in lab("list")


def test_down_removes_a_half_made_machine(lab: Lab):
    half = Home(lab.home).machine("half")
    half.mkdir(parents=True)
    (half / "disk.qcow2").write_text("not finished")
    assert "half-made" in lab("list")
    lab("down", "half")
    assert not half.exists()

"""The command line and the machine's state, without QEMU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab import cli, ssh
from lab.definition import Definition, Record
from lab.errors import GuestLostError, HostError, LabError, UsageError
from lab.machine import Machine
from lab.paths import Home


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("LAB_HOME", str(tmp_path / "lab"))
    return Home.from_environment()


def stopped_machine(home: Home, name: str, **more: str) -> Record:
    record = Record(Definition(forwards=(5555,), **more), "0123", "10.77.0.11", "tcg", {22: 40022, 5555: 45555})
    home.machine(name).mkdir(parents=True)
    (home.machine(name) / "machine.json").write_text(record.to_json())
    home.keys.mkdir(parents=True, exist_ok=True)
    (home.keys / "lab_ed25519").write_text("key")
    return record


def up(*options: str) -> Definition:
    return cli.definition_from(cli.build_parser().parse_args(["up", "one", *options]))


def test_a_machine_from_before_an_option_is_found(home: Home):
    record = stopped_machine(home, "one")
    file = home.machine("one") / "machine.json"
    old = json.loads(file.read_text())
    for option in ("packages", "kind"):
        del old["definition"][option]
    file.write_text(json.dumps(old))
    assert Record.from_json(file.read_text()) == record


def test_options_become_a_definition():
    assert up() == Definition()
    assert up(
        "--image", "debian13", "--memory", "1024", "--disk", "4G", "--cores", "1", "--forward", "80", "5555",
        "--forward", "80", "--network", "wire", "--packages", "haproxy", "--seed-packages", "logrotate,cron,",
    ) == Definition("debian13", 1024, 4 << 30, 1, (80, 5555), "wire", ("haproxy",), ("cron", "logrotate"))  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--memory", "64"], "--memory 256"),
        (["--cores", "0"], "--cores 1"),
        (["--disk", "1G"], "--disk 2G"),
        (["--disk", "big"], "8G or 512M"),
        (["--forward", "0"], "1 to 65535"),
        (["--forward", "http"], "1 to 65535"),
        (["--network", "My LAN"], "network name"),
    ],
)
def test_impossible_options_are_refused_with_what_is_possible(options: list[str], message: str):
    with pytest.raises(UsageError, match=message):
        up(*options)


def test_power_of_a_container_cannot_be_cut(home: Home, capsys: pytest.CaptureFixture[str], monkeypatch):
    stopped_machine(home, "one", kind="container")
    monkeypatch.setattr("lab.container.Container.pid", 1)
    assert cli.main(["cut-power", "one"]) == 2
    assert "page cache" in capsys.readouterr().err


def test_containers_and_vms_do_not_share_a_network(home: Home):
    stopped_machine(home, "one", kind="container", network="wire")
    with pytest.raises(UsageError, match="one on the network wire is a container"):
        Machine(home, "two")._choose_lan_address(Definition(network="wire"))


@pytest.mark.parametrize("name", ["", "One", "a b", "../x", "-a", "a-", "x" * 43])
def test_unusable_machine_names_are_refused(home: Home, name: str):
    with pytest.raises(UsageError, match="machine name"):
        Machine(home, name)


def test_each_kind_of_error_has_its_own_exit_status():
    statuses = [kind.exit_status for kind in (LabError, UsageError, HostError, GuestLostError)]
    assert statuses == [1, 2, 3, 4]


def test_a_record_survives_being_written_and_read(home: Home):
    record = stopped_machine(home, "one")
    assert Machine(home, "one").record == record


def test_a_damaged_record_counts_as_half_made(home: Home):
    stopped_machine(home, "one")
    for text in ("", "{", "[]", '{"definition": {}}'):
        (home.machine("one") / "machine.json").write_text(text)
        assert Machine(home, "one").state() == "half-made"


def test_status_of_an_absent_machine(home: Home, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["status", "one", "--json"]) == 3
    assert json.loads(capsys.readouterr().out) == {"name": "one", "state": "absent"}


def test_status_of_a_stopped_machine_says_where_it_was(home: Home, capsys: pytest.CaptureFixture[str]):
    stopped_machine(home, "one")
    assert cli.main(["status", "one", "--json"]) == 3
    place = json.loads(capsys.readouterr().out)
    assert place["state"] == "stopped"
    assert place["ssh_port"] == 40022
    assert place["forwards"] == {"5555": 45555}


def test_down_tells_that_a_machine_was_lost_and_what_its_console_said(home: Home, capsys: pytest.CaptureFixture[str]):
    stopped_machine(home, "one")
    (home.machine("one") / "serial.log").write_text("Kernel panic - not syncing\n")
    assert cli.main(["down", "one"]) == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("LOST one is stopped.")
    assert last == "one removed"


def test_list_shows_every_machine(home: Home, capsys: pytest.CaptureFixture[str]):
    stopped_machine(home, "one")
    home.machine("half").mkdir()
    assert cli.main(["list"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert rows == [["half", "half-made", "-", "-", "-"], ["one", "stopped", "vm", "debian12", "40022", "10.77.0.11"]]


def test_ssh_to_a_machine_without_qemu_is_a_lost_guest(home: Home, capsys: pytest.CaptureFixture[str]):
    stopped_machine(home, "one")
    (home.machine("one") / "serial.log").write_text("the last words\n")
    assert cli.main(["ssh", "one", "true"]) == 4
    message = capsys.readouterr().err
    assert "the last words" in message
    assert "lab down one" in message


def test_a_crash_in_the_firmware_is_told_from_one_in_the_guest(home: Home):
    stopped_machine(home, "one")
    machine = Machine(home, "one")
    machine.serial_log.write_text("[ 172.2] reboot: Restarting system\nSeaBIOS\nBooting from ROM..\x1bc\x1b[2J")
    assert machine.backend.crashed_in_firmware()
    machine.serial_log.write_text("SeaBIOS\nBooting from ROM..\n[ 3.1] systemd[1]: a warning\n")
    assert not machine.backend.crashed_in_firmware()


def test_ssh_to_a_machine_that_never_was_says_how_to_make_it(home: Home, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["ssh", "one", "true"]) == 2
    assert "lab up one" in capsys.readouterr().err


def test_down_removes_a_half_made_machine_and_is_content_without_one(home: Home):
    home.machine("half").mkdir(parents=True)
    assert cli.main(["down", "half", "never"]) == 0
    assert not home.machine("half").exists()


def test_ssh_checks_the_host_key_and_ignores_the_users_configuration():
    argv = ssh.ssh_argv(ssh.Access(40022, Path("/key"), Path("/known")), ["echo", "a"])
    assert argv[argv.index("-F") + 1] == "none"
    assert "StrictHostKeyChecking=yes" in argv
    assert "UserKnownHostsFile=/known" in argv
    assert argv[-4:] == ["admin@127.0.0.1", "--", "echo", "a"]


def test_a_port_where_nobody_greets_is_no_answer():
    assert not ssh.answers(1, timeout=0.2)


def test_known_hosts_names_address_and_port():
    assert ssh.known_hosts_line(40022, "ssh-ed25519 AAAA one\n") == "[127.0.0.1]:40022 ssh-ed25519 AAAA\n"


def test_the_home_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("LAB_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert Home.from_environment().root == Path("/cache/sitekeeper-lab")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert Home.from_environment().root == Path("/home/someone/.cache/sitekeeper-lab")

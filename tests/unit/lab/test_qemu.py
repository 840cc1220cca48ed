"""QEMU's command line, the accelerator and the search for the process."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import qemu
from lab.backend import marked_processes
from lab.errors import HostError

HARDWARE = qemu.Hardware(
    name="one",
    directory=Path("/lab/machines/one"),
    kernel=Path("/lab/images/x/vmlinuz"),
    initrd=Path("/lab/images/x/initrd"),
    memory_mib=512,
    cores=2,
    mac="52:54:00:00:00:01",
    forwards={22: 0, 5555: 40123},
)


def values(argv: list[str], option: str) -> list[str]:
    return [argv[index + 1] for index, word in enumerate(argv) if word == option]


def test_forwards_listen_on_this_computer_only_and_let_the_kernel_choose():
    (netdev,) = values(qemu.command_line(HARDWARE, qemu.TCG), "-netdev")
    assert "hostfwd=tcp:127.0.0.1:0-:22" in netdev
    assert "hostfwd=tcp:127.0.0.1:40123-:5555" in netdev


def test_the_lan_card_stays_on_the_loopback_interface():
    hardware = qemu.Hardware(**{**vars(HARDWARE), "lan": qemu.LanCard("52:54:00:00:00:02", "239.1.2.3:20001")})
    lan = values(qemu.command_line(hardware, qemu.TCG), "-netdev")[1]
    assert lan == "socket,id=lan,mcast=239.1.2.3:20001,localaddr=127.0.0.1"


def test_the_root_disk_is_cached_so_that_a_power_cut_loses_what_was_not_synced():
    drives = values(qemu.command_line(HARDWARE, qemu.TCG), "-drive")
    assert "cache=writeback" in drives[0]
    assert "readonly=on" in drives[1]


def test_the_guest_may_reboot_and_has_a_utc_clock():
    argv = qemu.command_line(HARDWARE, qemu.TCG)
    assert "-no-reboot" not in argv
    assert values(argv, "-rtc") == ["base=utc"]


@pytest.mark.parametrize(
    ("cpuinfo", "writable", "expected"),
    [
        ("flags\t\t: fpu vmx sse2\n", True, "kvm"),
        ("flags\t\t: fpu svm sse2\n", True, "kvm"),
        ("flags\t\t: fpu sse2\n", True, "tcg"),
        ("flags\t\t: fpu vmx sse2\n", False, "tcg"),
        ("model name\t: a cpu with vmx in its name\nflags\t\t: fpu\n", True, "tcg"),
        ("", True, "tcg"),
    ],
)
def test_kvm_needs_the_device_and_the_flag(cpuinfo: str, writable: bool, expected: str):
    assert qemu.choose_accelerator(cpuinfo, writable).name == expected


def process(proc: Path, pid: int, *argv: str) -> None:
    (proc / str(pid)).mkdir(parents=True)
    (proc / str(pid) / "cmdline").write_bytes(b"\0".join(word.encode() for word in argv) + b"\0")


def test_the_process_is_found_by_its_pid_file_and_not_by_its_name(tmp_path: Path):
    process(tmp_path, 10, "/usr/bin/qemu-system-x86_64", "-pidfile", "/lab/machines/other/qemu.pid")
    process(tmp_path, 11, "vi", "/lab/machines/one/qemu.pid")
    process(tmp_path, 12, "/usr/bin/qemu-system-x86_64", "-pidfile", "/lab/machines/one/qemu.pid")
    (tmp_path / "13").mkdir()
    (tmp_path / "14").mkdir()
    (tmp_path / "14" / "cmdline").write_bytes(b"")
    (tmp_path / "meminfo").write_text("")
    one, gone = (qemu.pid_file(Path("/lab/machines") / name) for name in ("one", "gone"))
    assert marked_processes(one, b"qemu-system", tmp_path) == [12]
    assert marked_processes(gone, b"qemu-system", tmp_path) == []


def test_too_little_memory_says_which_machines_to_remove():
    with pytest.raises(HostError, match=r"(?s)900 MiB.*Running machines: one, two.*down NAME.*--memory"):
        qemu.check_memory("MemTotal: 1 kB\nMemAvailable:  921600 kB\n", 2048, ["one", "two"])
    qemu.check_memory("MemAvailable:  921600 kB\n", 512, [])


@pytest.mark.parametrize(("accelerator", "fixed"), [(qemu.TCG, True), (qemu.KVM, False)])
def test_an_emulated_guest_takes_its_time_from_a_timer_of_a_known_rate(accelerator, fixed):
    (kernel,) = values(qemu.command_line(HARDWARE, accelerator), "-append")
    assert ("clocksource=hpet" in kernel.split()) is fixed


@pytest.mark.parametrize(
    ("cpuinfo", "scales", "argument"),
    [
        ("processor\t: 0\ncpu MHz\t\t: 2596.146\n", False, "tsc_early_khz=2596146"),
        ("processor\t: 0\ncpu MHz\t\t: 2596.146\n", True, "clocksource=hpet"),
        ("processor\t: 0\n", False, "clocksource=hpet"),
    ],
)
def test_the_rate_of_the_counter_is_told_only_where_it_is_known(cpuinfo, scales, argument):
    assert qemu.clock(cpuinfo, scales) == argument

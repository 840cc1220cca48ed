"""QEMU's command line, and finding the process again later."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lab.errors import HostError

#: Under TCG more features cost more: measured in docs/lab.md. This one still has what packages built for
#: x86-64-v2 expect.
TCG_CPU = "Nehalem"

_KERNEL_ARGUMENTS = (
    "root=/dev/vda",
    "rw",
    "console=ttyS0",
    # Drawing on the console costs time; a panic is printed all the same.
    "quiet",
    "systemd.show_status=error",
    # The root file system is journalled and its journal is replayed at mount.
    "fsck.mode=skip",
    # Emulated processors have no such flaws, and the workarounds cost time.
    "mitigations=off",
    # Without it the kernel spends time to check the emulated timers against each other.
    "tsc=reliable",
    "no_timer_check",
    # Nothing else feeds the guest's entropy this early.
    "random.trust_cpu=on",
)


@dataclass(frozen=True)
class Accelerator:
    """How QEMU runs the guest's processor, and what its kernel has to know of that."""

    name: str
    arguments: tuple[str, ...]
    kernel_arguments: tuple[str, ...] = ()


KVM = Accelerator("kvm", ("-accel", "kvm", "-cpu", "host"))
TCG = Accelerator(
    "tcg",
    ("-accel", "tcg,thread=multi", "-cpu", TCG_CPU),
    # See `clock`.
    ("clocksource=hpet",),
)


def choose_accelerator(cpuinfo: str, kvm_writable: bool) -> Accelerator:
    """Choose KVM only where it can work, else emulation.

    The device alone proves nothing: in a virtual machine without nested virtualisation it can be opened,
    and the guest then hangs. The processor must offer vmx (Intel) or svm (AMD) too.
    """
    flags: set[str] = set()
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "flags":
            flags.update(value.split())
            break
    return KVM if kvm_writable and flags & {"vmx", "svm"} else TCG


def clock(cpuinfo: str, scales: bool) -> str:
    """Return what the kernel of an emulated guest is told about its clock.

    On a busy computer the kernel measures the emulated counter (TSC) wrongly at boot: a guest's clock ran almost three
    times too fast, and with it every timeout in it. QEMU hands the real counter through, so its rate is told where it
    is known: where the processor's does not change (`scales`). Elsewhere an emulated timer of a given rate is
    used, which makes the guest about an eighth slower.
    """
    rate = re.search(r"(?m)^cpu MHz\s*:\s*([0-9]+\.[0-9]+)$", cpuinfo)
    return "clocksource=hpet" if scales or not rate else f"tsc_early_khz={round(float(rate[1]) * 1000)}"


def host_accelerator() -> Accelerator:
    """Look at this computer and choose."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    accelerator = choose_accelerator(cpuinfo, os.access("/dev/kvm", os.R_OK | os.W_OK))
    if accelerator is not TCG:
        return accelerator
    scales = Path("/sys/devices/system/cpu/cpu0/cpufreq").exists()
    return replace(accelerator, kernel_arguments=(clock(cpuinfo, scales),))


@dataclass(frozen=True)
class LanCard:
    """The second network card, on the private network between machines."""

    mac: str
    endpoint: str


@dataclass(frozen=True)
class Hardware:
    """One machine as QEMU shall build it. Paths are relative to the machine's state directory."""

    name: str
    directory: Path
    kernel: Path
    initrd: Path
    memory_mib: int
    cores: int
    mac: str
    #: guest port -> port on 127.0.0.1; 0 lets the kernel pick a free one
    forwards: dict[int, int] = field(default_factory=dict)
    lan: LanCard | None = None


def command_line(hardware: Hardware, accelerator: Accelerator) -> list[str]:
    """Return the argv that starts `hardware`; run it with the machine's directory as working directory."""
    rules = "".join(
        f",hostfwd=tcp:127.0.0.1:{host_port}-:{guest_port}" for guest_port, host_port in hardware.forwards.items()
    )
    argv = [
        "qemu-system-x86_64",
        "-name", f"lab-{hardware.name}",
        "-nodefaults",
        "-no-user-config",
        "-nographic",
        "-machine", "q35",
        *accelerator.arguments,
        "-m", str(hardware.memory_mib),
        "-smp", str(hardware.cores),
        "-rtc", "base=utc",
        "-kernel", os.fspath(hardware.kernel),
        "-initrd", os.fspath(hardware.initrd),
        "-append", " ".join((*_KERNEL_ARGUMENTS, *accelerator.kernel_arguments)),
        # writeback: a SIGKILL of QEMU loses what the guest did not fsync, as a power cut does.
        "-drive", "file=disk.qcow2,format=qcow2,if=none,id=root,cache=writeback,discard=unmap",
        "-device", "virtio-blk-pci,drive=root",
        "-drive", "file=seed.tar,format=raw,if=none,id=seed,readonly=on",
        "-device", "virtio-blk-pci,drive=seed",
        "-netdev", f"user,id=outside,ipv6=off{rules}",
        "-device", f"virtio-net-pci,netdev=outside,mac={hardware.mac},romfile=",
        "-device", "virtio-rng-pci",
        "-chardev", "file,id=serial,path=serial.log,append=on",
        "-serial", "chardev:serial",
        "-qmp", "unix:qmp.sock,server=on,wait=off",
        "-pidfile", os.fspath(pid_file(hardware.directory)),
    ]  # fmt: skip
    if hardware.lan:
        argv += [
            "-netdev", f"socket,id=lan,mcast={hardware.lan.endpoint},localaddr=127.0.0.1",
            "-device", f"virtio-net-pci,netdev=lan,mac={hardware.lan.mac},romfile=",
        ]  # fmt: skip
    return argv


def pid_file(directory: Path) -> Path:
    """Return the path QEMU writes its process id to; it also marks QEMU's command line."""
    return directory / "qemu.pid"


def check_memory(meminfo: str, needed_mib: int, running: Sequence[str]) -> None:
    """Raise HostError when this computer has less memory to spare than the guest is given."""
    for line in meminfo.splitlines():
        if line.startswith("MemAvailable:"):
            available_mib = int(line.split()[1]) // 1024
            if available_mib < needed_mib:
                machines = f" Running machines: {', '.join(running)}." if running else ""
                raise HostError(
                    f"Only {available_mib} MiB of memory are free, the machine is to get {needed_mib} MiB.{machines}\n"
                    "Remove a machine (python -m lab down NAME) or give this one less (--memory 1024)."
                )

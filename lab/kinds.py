"""The two kinds of machine, what each can do on this computer, and which one is taken for what is needed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lab.commands import CONTAINER_PACKAGES, missing_programs
from lab.errors import UsageError
from lab.qemu import KVM, host_accelerator

CONTAINER, VM = "container", "vm"
KINDS = (CONTAINER, VM)
#: ability -> what a machine has that has it
ABILITIES = {
    "memory": "the kernel's memory controller, so that limits hold",
    "kernel": "a kernel of its own: its killer, swap, clock and settings",
    "power": "a power cut loses what was not synced",
}
ALL = frozenset(ABILITIES)


@dataclass(frozen=True)
class Computer:
    """What decides about machines on this computer.

    Attributes:
        kvm: whether virtual machines run at full speed.
        memory_controller: whether control groups version 2 have it, for containers too.
        no_container: why no container can be made, in words; empty when one can.
    """

    kvm: bool
    memory_controller: bool
    no_container: str = ""


def parse_needs(text: str) -> frozenset[str]:
    """Return the abilities between commas, none for `none`; raise UsageError for a word that is no ability."""
    needs = frozenset(word for word in text.split(",") if word) - {"none"}
    if unknown := sorted(needs - ALL):
        raise UsageError(f"{', '.join(unknown)} is no need. Name some of: {', '.join(ABILITIES)}; or none.")
    return needs


def abilities(kind: str, memory_controller: bool) -> frozenset[str]:
    """Return what a machine of a kind can do; a container has the memory controller where this computer has it."""
    if kind == VM:
        return ALL
    return frozenset({"memory"}) if memory_controller else frozenset()


def choose(needs: Iterable[str], computer: Computer) -> str:
    """Return the fastest kind that has what is needed: a VM with KVM, else a container, else an emulated VM."""
    if computer.kvm or computer.no_container:
        return VM
    return CONTAINER if frozenset(needs) <= abilities(CONTAINER, computer.memory_controller) else VM


def check(kind: str, needs: Iterable[str], computer: Computer) -> None:
    """Raise UsageError when a machine of this kind cannot do what is needed."""
    if lacking := sorted(frozenset(needs) - abilities(kind, computer.memory_controller)):
        reasons = "; ".join(f"{one}: {ABILITIES[one]}" for one in lacking)
        raise UsageError(f"A {kind} lacks {', '.join(lacking)} on this computer ({reasons}). Take --kind vm.")


def this_computer() -> Computer:
    """Look at this computer."""
    return Computer(host_accelerator().name == KVM.name, memory_controller(), no_container())


def memory_controller(root: Path = Path("/")) -> bool:
    """Tell whether a systemd of this computer can hand a memory controller on: of control groups version 2."""
    controllers = root / "sys/fs/cgroup/cgroup.controllers"
    handed_on = (root / "run/systemd/system").is_dir()
    return handed_on and controllers.is_file() and "memory" in controllers.read_text().split()


def no_container() -> str:
    """Return why this user cannot make a container here, with what to do; empty when nothing is in the way."""
    if missing := missing_programs(CONTAINER_PACKAGES):
        packages = " ".join(sorted({CONTAINER_PACKAGES[name] for name in missing}))
        return f"{', '.join(missing)} is missing: sudo apt-get install {packages}   (or: tools/setup.sh lab)"
    if os.geteuid() != 0:
        try:
            allowed = subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return "it takes root or sudo, and there is no sudo"
        if allowed.returncode:
            return "it takes root, or a sudo that asks for no password"
    return ""

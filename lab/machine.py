"""One machine: made, started, waited for, cut off, removed."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from lab import kinds, network, qemu, ssh
from lab.backend import Backend
from lab.commands import require_programs, tail
from lab.container import Container
from lab.definition import Definition, Record, differences
from lab.errors import GuestLostError, HostError, LabError, UsageError
from lab.guestfiles import pack, seed_files
from lab.image import Image, check_room, ensure_image, lab_key, make_key, make_spec
from lab.paths import Home, check_name
from lab.progress import say, step
from lab.vm import VirtualMachine

# Emulated on a busy computer a boot can take minutes; with KVM it takes seconds. Either way a guest that
# panics or whose QEMU ends is noticed at once.
BOOT_TIMEOUT_SECONDS = 300.0
#: A login on an emulated, busy machine takes up to ten seconds.
_ANSWER_SECONDS = 25.0
_ROOM_FOR_MACHINE = 1 << 30
_SSH_PORT = 22
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_BACKENDS: dict[str, Callable[[Home, str, Path], Backend]] = {kinds.VM: VirtualMachine, kinds.CONTAINER: Container}


class Machine:
    """A machine of one lab, by name. Every method looks at the real state; nothing is remembered."""

    def __init__(self, home: Home, name: str) -> None:
        self.home = home
        self.name = check_name(name)
        self.directory = home.machine(name)

    # What there is

    @property
    def record(self) -> Record | None:
        """The machine's record, or None when it does not exist or was only half made."""
        try:
            return Record.from_json((self.directory / "machine.json").read_text())
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @property
    def backend(self) -> Backend:
        """What runs it."""
        record = self.record
        return self._backend(record.definition.kind if record else kinds.VM)

    @property
    def pid(self) -> int | None:
        """The process that runs it, or None."""
        return self.backend.pid

    @property
    def serial_log(self) -> Path:
        """Everything the guest wrote to its console, all boots in a row."""
        return self.directory / "serial.log"

    def state(self) -> str:
        """Return absent, half-made, stopped, unreachable (it runs, ssh does not answer) or running."""
        if not self.directory.is_dir():
            return "absent"
        record = self.record
        if record is None:
            return "half-made"
        if self.pid is None:
            return "stopped"
        return "running" if ssh.answers(record.ports[_SSH_PORT], timeout=10) else "unreachable"

    def describe(self) -> dict[str, Any]:
        """Return where the machine is: the data of `lab up --json`."""
        record = self._require_record()
        return {
            "name": self.name,
            "kind": record.definition.kind,
            "image": record.definition.image,
            "ssh_host": ssh.ADDRESS,
            "ssh_port": record.ports[_SSH_PORT],
            "ssh_user": ssh.USER,
            "ssh_key": str(lab_key(self.home)),
            "known_hosts": str(self.directory / "known_hosts"),
            "forwards": {str(port): record.ports[port] for port in record.definition.forwards},
            "accelerator": record.accelerator,
            "can": sorted(kinds.abilities(record.definition.kind, kinds.memory_controller())),
            "serial_log": str(self.serial_log),
            "lan_address": record.lan_address,
        }

    def access(self) -> ssh.Access:
        """Return how to log in."""
        record = self._require_record()
        return ssh.Access(record.ports[_SSH_PORT], lab_key(self.home), self.directory / "known_hosts")

    # What can be done

    def up(self, definition: Definition) -> dict[str, Any]:
        """Make and start the machine, or start it again, or do nothing; return `describe()`.

        Raises UsageError when a machine of this name exists with another definition.
        """
        require_programs(self._backend(definition.kind).packages)
        with self._lock():
            record = self.record
            if record is None:
                self._remove()  # what a killed `up` left behind
                record = self._make(definition)
            elif record.definition != definition:
                raise UsageError(
                    f"{self.name} exists with another definition: {differences(record.definition, definition)}.\n"
                    f"Remove it first: python -m lab down {self.name}"
                )
            if self.pid is not None:
                say(f"{self.name} is already running")
                self._wait_until_up(time.monotonic())
            else:
                self._start(record)
            return self.describe()

    def down(self) -> bool:
        """Remove the machine and everything of it, also a half-made one; tell whether there was anything."""
        with self._lock():
            return self._remove()

    def trouble(self) -> str:
        """Return why commands cannot reach the machine, with the end of its console; empty when nothing is wrong."""
        state = self.state()
        if state not in ("stopped", "unreachable"):
            return ""
        console, said = tail(self.serial_log, 5), tail(self.backend.log, 5)
        return (
            f"{self.name} is {state}. Last lines of its console, then what {self.backend.program} said:"
            f"\n{console}\n{said}"
        )

    def reboot(self) -> None:
        """Reboot from inside and wait for a new boot id."""
        with self._lock():
            self._require_running()
            before = self.boot_id()
            if not before:
                raise self._lost("ssh does not answer")
            started = time.monotonic()
            with step(f"rebooting {self.name}"):
                # The connection may be cut, or hang, before the command can tell how it went.
                with suppress(subprocess.TimeoutExpired):
                    ssh.run_remote(self.access(), ["sudo", "systemctl", "reboot"], _ANSWER_SECONDS)
                self._wait_until_up(started, lambda: self.boot_id() not in ("", before))

    def cut_power(self) -> None:
        """Kill QEMU, as a power cut would, and start the same disk again.

        Raises UsageError for a container.
        """
        with self._lock():
            record = self._require_running()
            if record.definition.kind == kinds.CONTAINER:
                raise UsageError(
                    f"{self.name} is a container: what it wrote is in the page cache of this computer, so a cut would "
                    "lose nothing. Make it with --kind vm."
                )
            self.backend.kill()
            self._start(record)

    def run(self, command: list[str], timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command in the guest and return its result, whatever its status.

        Raises GuestLostError when the machine is gone or does not answer within `timeout` seconds.
        """
        try:
            result = ssh.run_remote(self.access(), command, timeout)
        except subprocess.TimeoutExpired:
            raise self._lost(f"{' '.join(command)} did not end within {timeout:.0f} s") from None
        if result.returncode == ssh.CONNECTION_FAILED and self.pid is None:
            raise self._lost(f"{self.backend.program} is not running any more")
        return result

    def boot_id(self) -> str:
        """Return the kernel's id of this boot, or an empty string while the guest does not answer."""
        try:
            return ssh.run_remote(self.access(), ["cat", _BOOT_ID], _ANSWER_SECONDS).stdout.strip()
        except subprocess.TimeoutExpired:
            return ""

    def interactive(self, command: list[str], terminal: bool) -> int:
        """Run ssh with this terminal; return the command's own status.

        Raises GuestLostError when ssh fails because the machine is gone or does not answer.
        """
        self._require_running()
        access = self.access()
        argv = ssh.ssh_argv(access, command, interactive=terminal and bool(command))
        status = subprocess.run(argv, check=False).returncode
        if status == ssh.CONNECTION_FAILED:
            if self.pid is None:
                raise self._lost(f"{self.backend.program} ended")
            if not ssh.answers(access.port, timeout=20):
                raise self._lost("ssh does not answer")
        return status

    # How it is done

    def _lock(self) -> Any:
        return self.home.lock(f"machine-{self.name}", f"{self.name} to be changed")

    def _require_record(self) -> Record:
        record = self.record
        if record is None:
            raise UsageError(
                f"There is no machine {self.name!r}. Make it: python -m lab up {self.name}   (see: python -m lab list)"
            )
        return record

    def _require_running(self) -> Record:
        record = self._require_record()
        if self.pid is None:
            raise self._lost(f"{self.backend.program} is not running")
        return record

    def _make(self, definition: Definition) -> Record:
        backend = self._backend(definition.kind)
        spec = make_spec(self.home, definition)
        image = ensure_image(self.home, spec)
        self.directory.mkdir(parents=True, mode=0o700)
        check_room(self.directory, _ROOM_FOR_MACHINE)
        with self.home.lock("network", "an address to be chosen"):
            lan_address = self._choose_lan_address(definition)
            key = self.directory / "ssh_host_ed25519_key"
            make_key(key, self.name)
            lan_mac = self._mac("lan") if lan_address else None
            wires = network.networkd_files(self._mac("outside"), lan_mac, lan_address)
            public = key.with_name(f"{key.name}.pub").read_text()
            backend.create(image, pack(seed_files(self.name, key.read_text(), public, wires)))
            ports = dict.fromkeys((_SSH_PORT, *definition.forwards), 0)
            record = Record(definition, spec.identity, lan_address, self._accelerator(definition.kind), ports)
            self._write(record)
        return record

    def _choose_lan_address(self, definition: Definition) -> str | None:
        if definition.network is None:
            return None
        taken = set()
        for name in self.home.machine_names():
            record = Machine(self.home, name).record
            if record and record.definition.network == definition.network and record.lan_address:
                if record.definition.kind != definition.kind:
                    raise UsageError(
                        f"{name} on the network {definition.network} is a {record.definition.kind}: "
                        f"containers and VMs do not meet. Make {self.name} with --kind {record.definition.kind}."
                    )
                taken.add(record.lan_address)
        return network.free_lan_address(taken)

    def _mac(self, card: str) -> str:
        return network.mac_address(self.home.root, self.name, card)

    def _write(self, record: Record) -> None:
        draft = self.directory / ".machine.json"
        draft.write_text(record.to_json())
        draft.rename(self.directory / "machine.json")

    def _backend(self, kind: str) -> Backend:
        return _BACKENDS[kind](self.home, self.name, self.directory)

    @staticmethod
    def _accelerator(kind: str) -> str:
        """Return what runs the machine's instructions: kvm, tcg (emulated), or none in between."""
        return qemu.host_accelerator().name if kind == kinds.VM else "none"

    def _start(self, record: Record) -> None:
        definition = record.definition
        if definition.kind == kinds.VM:
            running = [name for name in self.home.machine_names() if Machine(self.home, name).pid]
            qemu.check_memory(Path("/proc/meminfo").read_text(), definition.memory_mib, running)
        started = time.monotonic()
        how = definition.kind if definition.kind == kinds.CONTAINER else self._accelerator(definition.kind)
        with step(f"booting {self.name} ({definition.image}, {how})"):
            self._power_on(record)
            self._wait_until_up(started)

    def _power_on(self, record: Record) -> None:
        """Start it and write down where it can be reached."""
        ports = self._launch(record)
        public = (self.directory / "ssh_host_ed25519_key.pub").read_text()
        (self.directory / "known_hosts").write_text(ssh.known_hosts_line(ports[_SSH_PORT], public))
        self._write(replace(record, accelerator=self._accelerator(record.definition.kind), ports=ports))

    def _launch(self, record: Record) -> dict[int, int]:
        """Start it and return its ports; the ones of the last time if they are still free."""
        image = Image(self.home.images / record.image_identity)
        if record.definition.kind == kinds.VM and not image.disk.is_file():
            raise LabError(
                f"The image under {self.name}'s disk is gone ({image.directory}).\n"
                f"Remove the machine and make it again: python -m lab down {self.name}"
            )
        backend = self._backend(record.definition.kind)
        try:
            return backend.launch(record, record.ports, image)
        except HostError:
            if not any(record.ports.values()):
                raise
            say(f"the ports of {self.name} are in use by another program: it gets new ones")
            return backend.launch(record, dict.fromkeys(record.ports, 0), image)

    def _wait_until_up(self, started: float, condition: Callable[[], bool] | None = None) -> None:
        """Wait until a login works (and `condition` holds); raise GuestLostError as soon as it cannot."""
        condition = condition or (lambda: bool(self.boot_id()))
        # Only this boot's part of the log: a panic of an earlier boot is history.
        seen = 0 if not self.serial_log.exists() else max(0, self.serial_log.stat().st_size - 4096)
        restarted = False
        while True:
            if self.pid is None:
                if restarted or not self.backend.crashed_in_firmware():
                    raise self._lost(f"{self.backend.program} ended while the machine was booting")
                restarted = True
                say(f"QEMU crashed in its firmware, before the guest's kernel: starting {self.name} again")
                self._power_on(self._require_record())
            if "Kernel panic - not syncing" in self._serial_since(seen):
                raise self._lost("the guest's kernel panicked")
            if ssh.answers(self.access().port) and condition():
                return
            if time.monotonic() - started > BOOT_TIMEOUT_SECONDS:
                raise self._lost(f"no login was possible within {BOOT_TIMEOUT_SECONDS:.0f} s")
            time.sleep(0.1)

    def _serial_since(self, offset: int) -> str:
        try:
            with self.serial_log.open("rb") as log:
                log.seek(offset)
                return log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def _lost(self, what: str) -> GuestLostError:
        return GuestLostError(
            f"The machine {self.name} is lost: {what}. Nothing is said about the command that ran in it.\n"
            f"Last lines of its console ({self.serial_log}):\n{tail(self.serial_log, 15)}\n"
            f"What {self.backend.program} said:\n{tail(self.backend.log, 5)}\n"
            f"Make it again: python -m lab down {self.name} && python -m lab up {self.name} ..."
        )

    def _remove(self) -> bool:
        there = self.directory.is_dir()
        # A half-made one does not say of which kind it is.
        for kind in (self.record.definition.kind,) if self.record else kinds.KINDS:
            backend = self._backend(kind)
            backend.kill()
            backend.discard()
        if there:
            shutil.rmtree(self.directory)
        return there

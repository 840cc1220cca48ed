"""One machine: made, started, waited for, cut off, removed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from lab import network, qemu, qmp, ssh
from lab.commands import find_program, require_programs, tail
from lab.definition import Definition, Record, differences
from lab.errors import GuestLostError, HostError, LabError, UsageError
from lab.guestfiles import pack, seed_files
from lab.image import Image, check_room, ensure_image, lab_key, make_key, make_spec
from lab.paths import Home, check_name
from lab.progress import say, step

# Emulated on a busy computer a boot can take minutes; with KVM it takes seconds. Either way a guest that
# panics or whose QEMU ends is noticed at once.
BOOT_TIMEOUT_SECONDS = 300.0
_STOP_TIMEOUT_SECONDS = 30.0
#: A login on an emulated, busy machine takes up to ten seconds.
_ANSWER_SECONDS = 25.0
_ROOM_FOR_MACHINE = 1 << 30
_SSH_PORT = 22
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


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
    def pid(self) -> int | None:
        """QEMU's process id, or None."""
        return qemu.find_process(self.directory)

    @property
    def serial_log(self) -> Path:
        """Everything the guest's kernel wrote to its console, all boots in a row."""
        return self.directory / "serial.log"

    def state(self) -> str:
        """Return absent, half-made, stopped, unreachable (QEMU runs, ssh does not answer) or running."""
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
            "image": record.definition.image,
            "ssh_host": ssh.ADDRESS,
            "ssh_port": record.ports[_SSH_PORT],
            "ssh_user": ssh.USER,
            "ssh_key": str(lab_key(self.home)),
            "known_hosts": str(self.directory / "known_hosts"),
            "forwards": {str(port): record.ports[port] for port in record.definition.forwards},
            "accelerator": record.accelerator,
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
        require_programs()
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
        console, qemu = tail(self.serial_log, 5), tail(self.directory / "qemu.log", 5)
        return f"{self.name} is {state}. Last lines of its console, then what QEMU said:\n{console}\n{qemu}"

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
        """Kill QEMU, as a power cut would, and start the same disk again."""
        with self._lock():
            record = self._require_running()
            self._kill()
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
            raise self._lost("QEMU is not running any more")
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
                raise self._lost("QEMU ended")
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
            raise self._lost("QEMU is not running")
        return record

    def _make(self, definition: Definition) -> Record:
        spec = make_spec(
            self.home, definition.image, definition.disk_bytes, definition.packages, definition.seed_packages
        )
        image = ensure_image(self.home, spec)
        self.directory.mkdir(parents=True, mode=0o700)
        check_room(self.directory, _ROOM_FOR_MACHINE)
        with self.home.lock("network", "an address to be chosen"):
            lan_address = self._choose_lan_address(definition.network)
            lan_mac = self._mac("lan") if lan_address else None
            key = self.directory / "ssh_host_ed25519_key"
            make_key(key, self.name)
            wires = network.networkd_files(self._mac("outside"), lan_mac, lan_address)
            public = key.with_name(f"{key.name}.pub").read_text()
            seed = pack(seed_files(self.name, key.read_text(), public, wires))
            (self.directory / "seed.tar").write_bytes(seed)
            self._make_overlay(image)
            ports = dict.fromkeys((_SSH_PORT, *definition.forwards), 0)
            record = Record(definition, spec.identity, lan_address, qemu.host_accelerator().name, ports)
            self._write(record)
        return record

    def _make_overlay(self, image: Image) -> None:
        argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw"]
        result = subprocess.run(
            [*argv, "-b", str(image.disk), str(self.directory / "disk.qcow2")],
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            raise LabError(f"qemu-img could not make the disk of {self.name}: {result.stderr.strip()}")

    def _choose_lan_address(self, lan: str | None) -> str | None:
        if lan is None:
            return None
        taken = set()
        for name in self.home.machine_names():
            record = Machine(self.home, name).record
            if record and record.definition.network == lan and record.lan_address:
                taken.add(record.lan_address)
        return network.free_lan_address(taken)

    def _mac(self, card: str) -> str:
        return network.mac_address(self.home.root, self.name, card)

    def _write(self, record: Record) -> None:
        draft = self.directory / ".machine.json"
        draft.write_text(record.to_json())
        draft.rename(self.directory / "machine.json")

    def _start(self, record: Record) -> None:
        definition = record.definition
        running = [name for name in self.home.machine_names() if Machine(self.home, name).pid]
        qemu.check_memory(Path("/proc/meminfo").read_text(), definition.memory_mib, running)
        started = time.monotonic()
        with step(f"booting {self.name} ({definition.image}, {qemu.host_accelerator().name})"):
            self._power_on(record)
            self._wait_until_up(started)

    def _power_on(self, record: Record) -> None:
        """Start QEMU and write down where it can be reached."""
        ports = self._launch(record)
        accelerator = qemu.host_accelerator().name
        public = (self.directory / "ssh_host_ed25519_key.pub").read_text()
        (self.directory / "known_hosts").write_text(ssh.known_hosts_line(ports[_SSH_PORT], public))
        self._write(replace(record, accelerator=accelerator, ports=ports))

    def _launch(self, record: Record) -> dict[int, int]:
        """Start QEMU and return its ports; the ones of the last time if they are still free."""
        image = Image(self.home.images / record.image_identity)
        if not image.disk.is_file():
            raise LabError(
                f"The image under {self.name}'s disk is gone ({image.directory}).\n"
                f"Remove the machine and make it anew: python -m lab down {self.name}"
            )
        try:
            return self._launch_with(record, record.ports, image)
        except HostError:
            if not any(record.ports.values()):
                raise
            say(f"the ports of {self.name} are in use by another program: it gets new ones")
            return self._launch_with(record, dict.fromkeys(record.ports, 0), image)

    def _launch_with(self, record: Record, ports: dict[int, int], image: Image) -> dict[int, int]:
        lan = None
        if record.definition.network and record.lan_address:
            endpoint = network.multicast_endpoint(self.home.root, record.definition.network)
            lan = qemu.LanCard(self._mac("lan"), endpoint)
        hardware = qemu.Hardware(
            name=self.name,
            directory=self.directory,
            kernel=image.kernel,
            initrd=image.initrd,
            memory_mib=record.definition.memory_mib,
            cores=record.definition.cores,
            mac=self._mac("outside"),
            forwards=ports,
            lan=lan,
        )
        argv = qemu.command_line(hardware, qemu.host_accelerator())
        log = self.directory / "qemu.log"
        control = self.directory / "qmp.sock"
        control.unlink(missing_ok=True)
        with log.open("wb") as output:
            process = subprocess.Popen(
                [find_program(argv[0]) or argv[0], *argv[1:]],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # A session of its own: it outlives this command and the terminal.
                start_new_session=True,
            )
        deadline = time.monotonic() + _STOP_TIMEOUT_SECONDS
        while not control.exists():
            if process.poll() is not None:
                raise HostError(f"QEMU did not start:\n{tail(log)}")
            if time.monotonic() > deadline:
                raise HostError(f"QEMU did not open its control socket:\n{tail(log)}")
            time.sleep(0.02)
        found = network.parse_forwards(qmp.monitor(self.directory, "info usernet"))
        if set(found) != set(ports):
            raise HostError(f"QEMU forwards {sorted(found)} instead of {sorted(ports)}: see {log}")
        return found

    def _wait_until_up(self, started: float, condition: Callable[[], bool] | None = None) -> None:
        """Wait until a login works (and `condition` holds); raise GuestLostError as soon as it cannot."""
        condition = condition or (lambda: bool(self.boot_id()))
        # Only this boot's part of the log: a panic of an earlier boot is history.
        seen = 0 if not self.serial_log.exists() else max(0, self.serial_log.stat().st_size - 4096)
        restarted = False
        while True:
            if self.pid is None:
                if restarted or not self._died_in_firmware():
                    raise self._lost("QEMU ended while the machine was booting")
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

    def _died_in_firmware(self) -> bool:
        """Tell whether the console ends in QEMU's firmware.

        QEMU 7.2 can crash there when it emulates on a busy computer: the device map changes under a running
        processor (memory_region_dispatch_read of a region that is gone; seen after a guest's reboot). The
        guest runs nothing at that moment, so starting again loses nothing.
        """
        return "Booting from ROM" in tail(self.serial_log, 1)

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
            f"What QEMU said:\n{tail(self.directory / 'qemu.log', 5)}\n"
            f"Make it anew: python -m lab down {self.name} && python -m lab up {self.name} ..."
        )

    def _kill(self) -> None:
        deadline = time.monotonic() + _STOP_TIMEOUT_SECONDS
        while (pid := self.pid) is not None:
            os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise LabError(f"QEMU (process {pid}) of {self.name} cannot be killed; look at it with ps.")
            time.sleep(0.02)

    def _remove(self) -> bool:
        there = self.directory.is_dir()
        self._kill()
        if there:
            shutil.rmtree(self.directory)
        return there

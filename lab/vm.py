"""A virtual machine: QEMU, a disk over the image's, and its control socket."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lab import network, qemu, qmp
from lab.backend import marked_processes
from lab.commands import VM_PACKAGES, find_program, tail
from lab.definition import Record
from lab.errors import HostError, LabError
from lab.image import Image
from lab.paths import Home

_STOP_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class VirtualMachine:
    """Runs a machine in QEMU."""

    home: Home
    name: str
    directory: Path
    program = "QEMU"
    packages = VM_PACKAGES

    @property
    def pid(self) -> int | None:
        """QEMU's process id, or None."""
        return next(iter(marked_processes(qemu.pid_file(self.directory), b"qemu-system")), None)

    @property
    def log(self) -> Path:
        """What QEMU said."""
        return self.directory / "qemu.log"

    def create(self, image: Image, seed: bytes) -> None:
        """Make an overlay over the image's disk, and the disk that the seed is on."""
        (self.directory / "seed.tar").write_bytes(seed)
        argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw"]
        result = subprocess.run(
            [*argv, "-b", str(image.disk), str(self.directory / "disk.qcow2")],
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            raise LabError(f"qemu-img could not make the disk of {self.name}: {result.stderr.strip()}")

    def launch(self, record: Record, ports: Mapping[int, int], image: Image) -> dict[int, int]:
        """Start QEMU and read back which ports it forwards."""
        lan = None
        if record.definition.network and record.lan_address:
            endpoint = network.multicast_endpoint(self.home.root, record.definition.network)
            lan = qemu.LanCard(network.mac_address(self.home.root, self.name, "lan"), endpoint)
        hardware = qemu.Hardware(
            name=self.name,
            directory=self.directory,
            kernel=image.kernel,
            initrd=image.initrd,
            memory_mib=record.definition.memory_mib,
            cores=record.definition.cores,
            mac=network.mac_address(self.home.root, self.name, "outside"),
            forwards=dict(ports),
            lan=lan,
        )
        argv = qemu.command_line(hardware, qemu.host_accelerator())
        control = self.directory / "qmp.sock"
        control.unlink(missing_ok=True)
        with self.log.open("wb") as output:
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
                raise HostError(f"QEMU did not start:\n{tail(self.log)}")
            if time.monotonic() > deadline:
                raise HostError(f"QEMU did not open its control socket:\n{tail(self.log)}")
            time.sleep(0.02)
        found = network.parse_forwards(qmp.monitor(self.directory, "info usernet"))
        if set(found) != set(ports):
            raise HostError(f"QEMU forwards {sorted(found)} instead of {sorted(ports)}: see {self.log}")
        return found

    def crashed_in_firmware(self) -> bool:
        """Tell whether the console ends in QEMU's firmware.

        QEMU 7.2 can crash there when it emulates on a busy computer: the device map changes under a running
        processor (memory_region_dispatch_read of a region that is gone; seen after a guest's reboot). The
        guest runs nothing at that moment, so starting again loses nothing.
        """
        return "Booting from ROM" in tail(self.directory / "serial.log", 1)

    def kill(self) -> None:
        """Kill QEMU and wait until it is gone."""
        deadline = time.monotonic() + _STOP_TIMEOUT_SECONDS
        while (pid := self.pid) is not None:
            os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise LabError(f"QEMU (process {pid}) of {self.name} cannot be killed; look at it with ps.")
            time.sleep(0.02)

    def discard(self) -> None:
        """Nothing: all of it is in its directory."""

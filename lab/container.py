"""A container: systemd-nspawn boots the image's tree, slirp4netns is its network to outside."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from lab import network
from lab.backend import marked_processes
from lab.commands import CONTAINER_PACKAGES, as_root, find_program, run_as_root, tail
from lab.definition import Record
from lab.errors import HostError, LabError
from lab.image import Image
from lab.paths import Home

_STOP_TIMEOUT_SECONDS = 30.0
#: Where control groups of version 2 are, alone or beside version 1, and those of systemd's own of version 1.
_HIERARCHIES = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd")
#: systemd-nspawn's exit status when the container asks for a reboot and whoever started it is to do that.
_REBOOT_STATUS = 133
#: Stands for the machine as long as it runs, over reboots. Where no systemd gives it a control group of its own it
#: makes one: with a shared one, a unit that is killed in one container is killed in all of them.
_SUPERVISOR = f"""\
group=$2; shift 2
for root in {" ".join(_HIERARCHIES)}; do
    if ! [ -d /run/systemd/system ] && [ -e "$root/cgroup.procs" ]; then
        mkdir -p "$root/$group" && echo $$ >"$root/$group/cgroup.procs"
    fi
done
while "$@"; test $? -eq {_REBOOT_STATUS}; do :; done
"""
_OUTSIDE, _LAN = "outside", "lan"
#: Where ip-netns(8) keeps the names.
_NAMESPACES = Path("/run/netns")


@dataclass(frozen=True)
class Container:
    """Runs a machine in a container of this computer's kernel."""

    home: Home
    name: str
    directory: Path
    program = "systemd-nspawn"
    packages = CONTAINER_PACKAGES

    @property
    def tree(self) -> Path:
        """Its root directory; belongs to root."""
        return self.directory / "tree"

    @property
    def pid(self) -> int | None:
        """The process that starts it, and starts it again when it reboots; or None."""
        return next(iter(marked_processes(self.tree, b"sh")), None)

    @property
    def log(self) -> Path:
        """What slirp4netns said."""
        return self.directory / "slirp4netns.log"

    @property
    def _control(self) -> Path:
        """The socket on which slirp4netns is told which ports to forward."""
        return self.directory / "slirp4netns.sock"

    @property
    def namespace(self) -> str:
        """Name of its network namespace: with the lab, for the name is one for the whole computer."""
        return f"lab-{self._short(self.name)}"

    def create(self, image: Image, seed: bytes) -> None:
        """Unpack the image's tree, and over it what is the machine's own."""
        (self.directory / "seed.tar").write_bytes(seed)
        run_as_root("mkdir", "-m", "0755", str(self.tree))
        for archive in (image.tree, self.directory / "seed.tar"):
            run_as_root("tar", "--extract", "--preserve-permissions", "--numeric-owner", "--xattrs",
                        "--xattrs-include=*", f"--file={archive}", f"--directory={self.tree}")  # fmt: skip

    def launch(self, record: Record, ports: Mapping[int, int], image: Image) -> dict[int, int]:
        """Make its network, then start it."""
        # Whatever an interrupted start left.
        self.kill()
        self.discard_network()
        self.discard_groups()
        run_as_root("ip", "netns", "add", self.namespace)
        found = self._connect(ports)
        if record.definition.network and record.lan_address:
            self._join(record.definition.network)
        with (self.directory / "serial.log").open("ab") as console:
            subprocess.Popen(
                as_root(self._supervisor()),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        deadline = time.monotonic() + _STOP_TIMEOUT_SECONDS
        while self.pid is None:
            if time.monotonic() > deadline:
                raise HostError(f"systemd-nspawn did not start:\n{tail(self.directory / 'serial.log')}")
            time.sleep(0.02)
        return found

    def crashed_in_firmware(self) -> bool:
        """Return False: it has no firmware."""
        return False

    def kill(self) -> None:
        """Kill what starts it, systemd-nspawn, its network and all in its namespace; wait until they are gone."""
        deadline = time.monotonic() + _STOP_TIMEOUT_SECONDS
        while pids := self._processes():
            # One may be gone by now; then kill says so, and the next look does not find it.
            with suppress(LabError):
                run_as_root("kill", "-KILL", *map(str, pids))
            if time.monotonic() > deadline:
                raise LabError(f"Processes {pids} of {self.name} cannot be killed; look at them with ps.")
            time.sleep(0.02)

    def discard(self) -> None:
        """Remove its network, its control groups and its tree."""
        self.discard_network()
        self.discard_groups()
        if self.tree.exists():
            run_as_root("rm", "--recursive", "--force", "--one-file-system", str(self.tree))

    def discard_network(self) -> None:
        """Take it off its LAN, which goes with the last machine, and remove its namespace with its interfaces."""
        # First: the kernel takes the wires of a namespace away some time after it.
        with self.home.lock("network", "a private network to be left"):
            for bridge in _NAMESPACES.glob(f"{self._lan_prefix}*"):
                self._leave(bridge.name)
        if self.netns.exists():
            run_as_root("ip", "netns", "delete", self.namespace)

    def discard_groups(self) -> None:
        """Remove its control groups; on a busy computer the kernel holds them for a moment after the last process."""
        deadline = time.monotonic() + _STOP_TIMEOUT_SECONDS
        for group in (Path(root, self.namespace) for root in _HIERARCHIES):
            while group.is_dir():
                try:
                    run_as_root("find", str(group), "-depth", "-type", "d", "-delete")
                except LabError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.1)

    @property
    def netns(self) -> Path:
        """The file of its network namespace."""
        return _NAMESPACES / self.namespace

    @property
    def _port(self) -> str:
        """Name of its end of the wire at the bridge of a LAN."""
        return f"p-{self._short(self.name)}"

    @property
    def _lan_prefix(self) -> str:
        return f"lab-lan-{self._short('')}-"

    def _short(self, name: str) -> str:
        return hashlib.sha256(f"{self.home.root}\0{name}".encode()).hexdigest()[:10]

    def _starters(self) -> list[int]:
        """What starts it, and systemd-nspawn."""
        return [*marked_processes(self.tree, b"sh"), *marked_processes(self.tree, b"systemd-nspawn")]

    def _processes(self) -> list[int]:
        """What starts it, what carries its network, and all that live in that.

        A killed systemd-nspawn leaves the container's first process behind (252): that one is found by its network.
        """
        inside = run_as_root("ip", "netns", "pids", self.namespace).split() if self.netns.exists() else ()
        return [*self._starters(), *marked_processes(self.netns, b"slirp4netns"), *map(int, inside)]

    def _supervisor(self) -> list[str]:
        """Return the command that boots the container, again when it reboots."""
        nspawn = [
            "env",
            # Where this computer's own hierarchy is mixed the container would get version 1.
            "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1",
            find_program("systemd-nspawn") or "systemd-nspawn",
            "--quiet",
            "--boot",
            "--directory",
            str(self.tree),
            f"--machine={self.namespace}",
            f"--hostname={self.name}",
            # No journal, resolver or registration of this computer's is touched.
            "--register=no",
            "--keep-unit",
            "--resolv-conf=off",
            "--link-journal=no",
            f"--network-namespace-path={self.netns}",
            # Its network is its own: it sets it up itself, as a VM does.
            "--capability=CAP_NET_ADMIN",
            "--console=read-only",
        ]
        # A control group of its own, with the controllers handed on: in a login's no limit could be set.
        scope = ["systemd-run", "--quiet", "--scope", "--collect", "--property=Delegate=yes", "--"]
        systemd = Path("/run/systemd/system").is_dir()
        return [
            "sh",
            "-c",
            _SUPERVISOR,
            "lab-container",
            str(self.tree),
            self.namespace,
            *(scope if systemd else []),
            *nspawn,
        ]

    def _connect(self, ports: Mapping[int, int]) -> dict[int, int]:
        """Start slirp4netns, which carries its connections to outside and the forwarded ports to it; return the ports.

        The library is the one of QEMU's user network: the addresses are the same, and so is what a guest sees.
        """
        self._control.unlink(missing_ok=True)
        program = find_program("slirp4netns") or "slirp4netns"
        options = ["--netns-type=path", "--api-socket", str(self._control)]
        with self.log.open("wb") as output:
            process = subprocess.Popen(
                as_root([program, *options, str(self.netns), _OUTSIDE]),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + _STOP_TIMEOUT_SECONDS
        while not self._control.is_socket():
            if process.poll() is not None or time.monotonic() > deadline:
                raise HostError(f"slirp4netns did not start:\n{tail(self.log)}")
            time.sleep(0.02)
        # Who is not root talks to it too.
        run_as_root("chown", str(os.geteuid()), str(self._control))
        mac = network.mac_address(self.home.root, self.name, _OUTSIDE)
        run_as_root("ip", "-n", self.namespace, "link", "set", _OUTSIDE, "address", mac)
        with ExitStack() as held:
            found = {guest: port or _free_port(held) for guest, port in ports.items()}
            for guest, host in found.items():
                self._forward(host, guest)
        return found

    def _forward(self, host: int, guest: int) -> None:
        """Have a port of 127.0.0.1 forwarded; raise HostError when it is taken."""
        arguments = {
            "proto": "tcp",
            "host_addr": "127.0.0.1",
            "host_port": host,
            "guest_addr": network.GUEST_ADDRESS,
            "guest_port": guest,
        }
        request = json.dumps({"execute": "add_hostfwd", "arguments": arguments}).encode()
        directory = os.open(self.directory, os.O_PATH | os.O_DIRECTORY)
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(_STOP_TIMEOUT_SECONDS)
                # As qmp.py does: a socket's path may have 107 bytes at most.
                connection.connect(f"/proc/self/fd/{directory}/{self._control.name}")
                connection.sendall(request)
                connection.shutdown(socket.SHUT_WR)
                answer = b"".join(iter(lambda: connection.recv(4096), b""))
        except OSError as error:
            raise HostError(f"slirp4netns does not answer: {error}\n{tail(self.log)}") from error
        finally:
            os.close(directory)
        if b'"error"' in answer:
            raise HostError(f"slirp4netns cannot forward port {host}: {answer.decode(errors='replace')}")

    def _join(self, lan: str) -> None:
        """Put a second card into it, on the bridge of the LAN, which lives in a namespace of its own."""
        bridge = f"{self._lan_prefix}{lan}"
        mac = network.mac_address(self.home.root, self.name, _LAN)
        with self.home.lock("network", "the private network to be made"):
            if not (_NAMESPACES / bridge).exists():
                run_as_root("ip", "netns", "add", bridge)
                run_as_root("ip", "-n", bridge, "link", "add", "bridge", "type", "bridge")
                run_as_root("ip", "-n", bridge, "link", "set", "bridge", "up")
            run_as_root("ip", "-n", self.namespace, "link", "add", _LAN, "address", mac,
                        "type", "veth", "peer", "name", self._port, "netns", bridge)  # fmt: skip
            run_as_root("ip", "-n", bridge, "link", "set", self._port, "master", "bridge", "up")

    def _leave(self, bridge: str) -> None:
        """Take its wire off a LAN, and remove the LAN when no other is left on it."""
        wires = re.findall(r"(?m)^\d+: ([^@:]+)", run_as_root("ip", "-n", bridge, "-o", "link", "show", "type", "veth"))
        if self._port in wires:
            run_as_root("ip", "-n", bridge, "link", "delete", self._port)
        if not set(wires) - {self._port}:
            run_as_root("ip", "netns", "delete", bridge)


def _free_port(held: ExitStack) -> int:
    """Return a port of 127.0.0.1 that nobody has. It stays bound until `held` is closed, so that none else gets it.

    Two sockets may be bound to one port while neither listens, when both allow it (socket(7), SO_REUSEADDR).
    """
    taken = held.enter_context(socket.socket())
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken.bind(("127.0.0.1", 0))
    return int(taken.getsockname()[1])

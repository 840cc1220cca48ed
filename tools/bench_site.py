"""The bench's machine: the example site on a lab machine, seen from the outside and, as root, from the inside."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lab.errors import LabError
from lab.machine import Machine
from lab.paths import Home
from lab.ssh import ssh_argv
from plugins.module_utils.drill import GONE, Process, Seen, parse_stat
from tools.bench_part import ROOT, BenchError
from tools.demo import MEMORY_MIB, PORT, SEED_PACKAGES, inventory

NAME, APP, UNIT = "bench", "currents", "currents.service"
IMAGE, CORES = "debian12", 2
WORKERS, THREADS = 2, 4
#: Small, so that a leak of five times as much takes minutes.
HIGH_MIB, MAX_MIB = 320, 384
#: What the site may take to be whole, where the processor is emulated.
WELL_SECONDS = 240.0
POLL_SECONDS = 0.25
BOOTS = 3
SETTINGS = {
    # An emulated processor starts an app several times more slowly.
    "service_health_timeout_seconds": 240,
    "service_start_timeout_seconds": 240,
    "app_boot_timeout_seconds": 120,
    "app_workers": WORKERS,
    "app_threads": THREADS,
    "app_environment": {"CURRENTS_ALLOW_FAULTS": "yes"},
    "service_memory_high": f"{HIGH_MIB}M",
    "service_memory_max": f"{MAX_MIB}M",
}
#: Plain Gunicorn with the same app: from its start to its first answer. One connection, made as soon as it can be.
BOOT = """
import socket, subprocess, sys, time
path = f"/tmp/bench-boot-{time.monotonic_ns()}.sock"
began = time.monotonic()
words = ["venv/bin/gunicorn", "--chdir", "code", "--bind", f"unix:{path}", "--worker-class", "gthread"]
server = subprocess.Popen([*words, *sys.argv[1:]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
try:
    while True:
        try:
            with socket.socket(socket.AF_UNIX) as one:
                one.connect(path)
                one.sendall(b"GET /health HTTP/1.0\\r\\n\\r\\n")
                if one.recv(99).split()[1] == b"200":
                    break
        except OSError:
            pass
        time.sleep(0.02)
    print(time.monotonic() - began)
finally:
    server.terminate()
    server.wait()
"""
#: Visitors on the machine itself: a port forwarded by QEMU takes a connection whether somebody listens or not.
INSIDE = """
import json, sys
sys.path.insert(0, "/tmp")
from load import Load
with Load("http://127.0.0.1:{port}/health", rate=2, seconds=3000) as load:
    print("ready", flush=True)
    sys.stdin.read()
print(json.dumps(load.stop().summary().outcomes))
"""


def poll(true: Callable[[], object], seconds: float) -> bool:
    """Ask until it is true or the time is over; tell which."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def must(*words: str) -> None:
    """Run a command, its output to the terminal. Raises BenchError when it fails."""
    # An ssh that ends with its machine leaves the terminal non-blocking, and Ansible refuses that.
    for descriptor in (0, 1, 2):
        os.set_blocking(descriptor, True)
    if (status := subprocess.run(words, cwd=ROOT, check=False).returncode) != 0:
        raise BenchError(f"status {status} of: {' '.join(words)}")


class Shell:
    """A root shell on the machine that stays open: a login of its own for each command takes a second there."""

    def __init__(self, machine: Machine) -> None:
        self._process = subprocess.Popen(
            ssh_argv(machine.access(), ["sudo", "bash"]), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def lines(self, command: str) -> Iterator[str]:
        """Run a command and give its lines as they come. Raises BenchError when it fails or the machine is lost."""
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(f"{{ {command}\n}} </dev/null; echo ==END $?\n")
            self._process.stdin.flush()
        except OSError as error:
            raise BenchError(f"the machine's shell is gone: {error}") from error
        for line in self._process.stdout:
            if line.startswith("==END "):
                if (status := line.split()[1]) != "0":
                    raise BenchError(f"status {status} of: {command.splitlines()[0]}")
                return
            yield line.rstrip("\n")
        raise BenchError(f"the machine's shell ended during: {command.splitlines()[0]}")

    def run(self, command: str) -> str:
        """Run a command and return what it prints. Raises BenchError."""
        return "\n".join(self.lines(command))

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


class Site:
    """The example site on its machine.

    Attributes:
        url: where visitors from outside reach it.
        machine: the lab's.
        shell: root's.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine, self.shell = machine, Shell(machine)
        self.url = f"http://127.0.0.1:{machine.describe()['forwards'][str(PORT)]}"
        self._invocation, self._main, self._group = "", 0, ""
        self._bring_load()

    def _bring_load(self) -> None:
        """Copy the load generator to the machine, for its own visitors."""
        self.shell.run(f"cat >/tmp/load.py <<'END-OF-LOAD'\n{(ROOT / 'tools' / 'load.py').read_text()}\nEND-OF-LOAD")

    def show(self, *names: str) -> dict[str, str]:
        """Return properties of the app's unit."""
        out = self.shell.run(f"systemctl show {UNIT} -p {','.join(names)}")
        return dict(line.split("=", 1) for line in out.splitlines())

    @property
    def group(self) -> str:
        """The control group of the app, as a directory on the machine."""
        return self._group

    def look(self) -> Seen:
        """Look at the service. systemd itself is asked only when there is a new start: this is done often."""
        link = self.shell.run(f"readlink /run/systemd/units/invocation:{UNIT} || true").strip()
        if link != self._invocation or not self._main:
            shown = self.show("MainPID", "ControlGroup")
            self._invocation, self._main = link, int(shown["MainPID"])
            self._group = f"/sys/fs/cgroup{shown['ControlGroup']}" if shown["ControlGroup"] else self._group
        # Only what bash does by itself: each program that it starts would take the site's processor time.
        # A process, or the whole group, may go while it is read: what cannot be read is not there.
        found = self.shell.run(
            f"{{ while read -r p; do read -r s </proc/$p/stat && echo stat $s; done <{self._group}/cgroup.procs; "
            f"while read -r e; do echo event $e; done <{self._group}/memory.events; }} 2>/dev/null; true"
        )
        processes: dict[int, Process] = {}
        events = {}
        for line in found.splitlines():
            kind, _, text = line.partition(" ")
            if kind == "stat" and (one := parse_stat(text)).state not in GONE:
                processes[one.pid] = one
            elif kind == "event":
                events[text.split()[0]] = int(text.split()[1])
        return Seen(self._invocation, self._main, processes, events.get("oom_kill", 0))

    def events(self) -> dict[str, int]:
        """Return the kernel's counters of the app's memory."""
        lines = self.shell.run(f"cat {self._group}/memory.events").splitlines()
        return {name: int(count) for name, count in (line.split() for line in lines)}

    def exits(self) -> dict[str, int]:
        """Return how many workers ended for which reason, since the master's start."""
        return dict(json.loads(self.shell.run("sitectl memory --json"))["worker_exits"])

    def healthy(self) -> bool:
        """Tell whether a visitor from outside is answered."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=10) as answer:
                return answer.status == 200
        except OSError:
            return False

    def wait_well(self) -> None:
        """Wait until visitors are answered and all workers are there. Raises BenchError."""
        if not poll(lambda: self.healthy() and len(self.look().workers) == WORKERS, WELL_SECONDS):
            raise BenchError(f"the site is not well: look at it with `python -m lab ssh {NAME}`")

    def boot_seconds(self) -> float:
        """Return what plain Gunicorn needs from its start to its first answer with this app: the median of some."""
        settings = json.loads(self.shell.run(f"cat /etc/{APP}/gunicorn.json"))
        command = [
            *("systemd-run", "--quiet", "--wait", "--collect", "--pipe", f"--uid={APP}"),
            *("-p", f"EnvironmentFile=/etc/{APP}/app.env", f"--setenv=STATE_DIRECTORY=/var/lib/{APP}"),
            *("-p", f"WorkingDirectory=/srv/{APP}/current", "python3", "-c", BOOT),
            *("--workers", str(WORKERS), "--threads", str(THREADS), settings["app_module"]),
        ]
        return statistics.median(float(self.shell.run(shlex.join(command))) for _ in range(BOOTS))

    @contextlib.contextmanager
    def inside(self) -> Iterator[dict[str, int]]:
        """Let visitors come from the machine itself; what became of them is in the dictionary at the end."""
        outcomes: dict[str, int] = {}
        words = shlex.join(["python3", "-c", INSIDE.format(port=PORT)])
        with subprocess.Popen(
            ssh_argv(self.machine.access(), [words]), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout
            if process.stdout.readline().strip() != "ready":
                raise BenchError("no visitors on the machine itself")
            yield outcomes
            out, _ = process.communicate()
        outcomes.update(json.loads(out))

    def reconnect(self) -> None:
        """Log in anew, after a reboot. Raises BenchError."""
        self.shell.close()
        self.shell = Shell(self.machine)
        self._invocation, self._main = "", 0
        self._bring_load()


class Bench:
    """A machine of the lab with the example site on it, removed at the end.

    Attributes:
        machine: the lab's.
        inventory: a directory of its own, with the inventory.
        first_seconds: how long the first ``site.yml`` took.
    """

    def __init__(
        self, *, packages: str = SEED_PACKAGES, ports: Sequence[int] = (PORT,), settings: Mapping[str, Any] = SETTINGS
    ) -> None:
        """Do nothing yet.

        Args:
            packages: which the machine has downloaded, not installed.
            ports: of the machine, to be reached from outside.
            settings: of the site.
        """
        self.machine = Machine(Home.from_environment(), NAME)
        self.packages, self.ports, self.settings, self.first_seconds = packages, ports, settings, 0.0
        self._directory = tempfile.TemporaryDirectory()
        self.inventory = Path(self._directory.name)

    def __enter__(self) -> Site:
        """Boot it and run ``site.yml`` on it. Raises BenchError."""
        words = ["up", NAME, "--image", IMAGE, "--memory", str(MEMORY_MIB), "--cores", str(CORES)]
        try:
            words += ["--seed-packages", self.packages, "--forward", *map(str, self.ports)]
            must(sys.executable, "-m", "lab", *words)
            written = inventory(self.machine.describe())
            written["all"]["hosts"][APP].update(self.settings)
            (self.inventory / "hosts.yml").write_text(yaml.safe_dump(written), encoding="utf-8")
            (self.inventory / "group_vars").symlink_to(ROOT / "group_vars")
            start = time.monotonic()
            self.play("site.yml")
            self.first_seconds = round(time.monotonic() - start, 2)
            return Site(self.machine)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_error: object) -> None:
        """Remove the machine."""
        with contextlib.suppress(LabError):
            self.machine.down()
        self._directory.cleanup()

    def play(self, playbook: str, *more: str) -> None:
        """Run a playbook on it. Raises BenchError."""
        must(*self.playbook(playbook, *more))

    def playbook(self, playbook: str, *more: str) -> list[str]:
        """Return the command that runs a playbook on it."""
        program = str(Path(sys.executable).with_name("ansible-playbook"))
        return [program, "-i", str(self.inventory / "hosts.yml"), playbook, *more]

    def described(self) -> str:
        """Return what kind of machine it is."""
        about: dict[str, Any] = self.machine.describe()
        return f"{about['image']} on {CORES} cores ({about['accelerator']})"

    def emulated(self) -> bool:
        """Tell whether its processor is emulated."""
        return self.machine.describe()["accelerator"] == "tcg"

"""A balanced site as its visitors, its operator and its balancer see it."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import testinfra
import yaml

from lab.qemu import host_accelerator
from tools.load import Ask, Load

REPOSITORY = Path(__file__).resolve().parents[3]
INVENTORY = Path(__file__).resolve().parents[1] / "inventory"
WEBS = ("web1", "web2")
RUN_SECONDS = 1200
#: Visitors a second at the balancer: three emulated machines, with a deploy at work in them, serve no more.
RATE = 20.0 if host_accelerator().name == "kvm" else 4.0
numbers = itertools.count(1)
#: Prints "NAME op_state admin_state" of each server, as haproxy says it.
STATES = (
    "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/haproxy/admin.sock'); "
    "s.sendall(b'show servers state currents\\n'); "
    "rows = [line.split() for line in s.makefile().read().splitlines()[2:] if line]; "
    "print(*(f'{row[3]} {row[5]} {row[6]}' for row in rows), sep='\\n')"
)


@dataclass(frozen=True)
class Run:
    """How a playbook ended."""

    code: int
    output: str


def command(name: str, *arguments: str, **variables: object) -> list[str]:
    """Return the command line of a playbook."""
    words = [word for key, value in variables.items() for word in ("-e", json.dumps({key: value}))]
    return ["ansible-playbook", "-i", str(INVENTORY), f"playbooks/{name}.yml", *arguments, *words]


@pytest.fixture
def playbook() -> Callable[..., Run]:
    """Run a playbook against the scenario's machines."""

    def run(name: str, *arguments: str, **variables: object) -> Run:
        done = subprocess.run(
            command(name, *arguments, **variables),
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )
        return Run(done.returncode, done.stdout)

    return run


@pytest.fixture
def changed(tmp_path) -> Callable[[str], str]:
    """Make a copy of the example app with text put at the end of app.py; return where it is."""

    def make(text: str = "") -> str:
        code = tmp_path / f"code-{next(numbers)}"
        shutil.copytree(REPOSITORY / "examples/currents", code, ignore=shutil.ignore_patterns("__pycache__", "*.db*"))
        with (code / "app.py").open("a") as file:
            # Another release each time, also when the sentences are run twice on the same machines.
            file.write(f"\n# {uuid.uuid4()}\n{text}")
        return str(code)

    return make


@pytest.fixture
def killed(poll, states) -> Callable[..., None]:
    """Begin a deploy, and kill it as soon as a host is drained."""

    def run(**variables: object) -> None:
        words = command("deploy", **variables)
        with subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.DEVNULL, start_new_session=True) as process:
            poll(lambda: any(drained for _, drained in states().values()), RUN_SECONDS, "a drained host")
            os.killpg(process.pid, signal.SIGKILL)

    return run


def machine(name: str):
    """Return one machine, to run commands on."""
    return testinfra.get_host(f"ansible://{name}?ansible_inventory={INVENTORY}", sudo=True)


@pytest.fixture
def on() -> Callable[..., str]:
    """Run a command on a machine as root."""
    return lambda name, words, *more: machine(name).check_output(words, *more)


@pytest.fixture
def states(on) -> Callable[[], dict[str, tuple[bool, bool]]]:
    """Ask haproxy of each host whether it is up, and whether it is drained."""

    def ask() -> dict[str, tuple[bool, bool]]:
        rows = (line.split() for line in on("balance1", "python3 -c %s", STATES).splitlines())
        return {name: (state == "2", admin != "0") for name, state, admin in rows}

    return ask


@pytest.fixture
def has(on) -> Callable[[], dict[str, str]]:
    """Tell which release each host has."""
    return lambda: {name: on(name, "basename $(readlink /srv/currents/current)").strip() for name in WEBS}


@pytest.fixture
def url() -> str:
    """The balancer, as a visitor reaches it."""
    machines = yaml.safe_load((INVENTORY / "machines.yml").read_text())["all"]["hosts"]
    return f"http://127.0.0.1:{machines['balance1']['machine_forwards']['5555']}"


@pytest.fixture
def visitors(url) -> Callable[[], Load]:
    """Start visitors who come at a steady rate."""
    return lambda: Load(Ask(url, path="/api/hero"), rate=RATE, seconds=RUN_SECONDS)


@pytest.fixture(autouse=True)
def well(states, poll) -> None:
    """Every sentence begins with a site of which each host is up."""
    poll(lambda: set(states().values()) == {(True, False)}, 240, "both hosts up and filled")

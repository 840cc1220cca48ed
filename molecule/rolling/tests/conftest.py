"""A balanced site as its visitors, its operator and its balancer see it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import testinfra
import yaml

from tools.load import Ask, Load

REPOSITORY = Path(__file__).resolve().parents[3]
#: How long the visitors may come: a sentence runs several playbooks.
VISIT_SECONDS = 3600
#: The longest until a deploy drains its first host: it is built and proven on all of them before.
DRAIN_SECONDS = 1200
INVENTORY = Path(__file__).resolve().parents[1] / "inventory"
WEBS = ("web1", "web2")
#: Requests a second at the balancer: three emulated machines serve no more than the first beside a deploy.
RATE_EMULATED, RATE = 4.0, 20.0
#: Prints "NAME op_state admin_state" of each server, as haproxy says it.
STATES = (
    "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/haproxy/admin.sock'); "
    "s.sendall(b'show servers state currents\\n'); "
    "rows = [line.split() for line in s.makefile().read().splitlines()[2:] if line]; "
    "print(*(f'{row[3]} {row[5]} {row[6]}' for row in rows), sep='\\n')"
)


@pytest.fixture
def killed(words, poll, states) -> Callable[..., None]:
    """Begin a deploy, and kill it as soon as a host is drained."""

    def begin(**variables: object) -> None:
        run = words("deploy", **variables)
        with subprocess.Popen(run, cwd=REPOSITORY, stdout=subprocess.DEVNULL, start_new_session=True) as process:
            poll(lambda: any(drained for _, drained in states().values()), DRAIN_SECONDS, "a drained host")
            os.killpg(process.pid, signal.SIGKILL)

    return begin


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
def balancer() -> dict:
    """How the balancer's machine is reached, and what it is."""
    return yaml.safe_load((INVENTORY / "machines.yml").read_text())["all"]["hosts"]["balance1"]


@pytest.fixture
def visitors(balancer) -> Callable[[], Load]:
    """Start clients that send requests to the balancer at a steady rate."""
    url = f"http://127.0.0.1:{balancer['machine_forwards']['5555']}"
    rate = RATE_EMULATED if balancer["machine_emulated"] else RATE
    return lambda: Load(Ask(url, path="/api/hero"), rate=rate, seconds=VISIT_SECONDS)


@pytest.fixture(autouse=True)
def well(states, poll) -> None:
    """Every sentence begins with a site of which each host is up."""
    poll(lambda: set(states().values()) == {(True, False)}, 240, "both hosts up and filled")

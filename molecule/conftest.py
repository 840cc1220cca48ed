"""What the sentences of all scenarios share: the site as a visitor reaches it, and polling to a deadline."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from xdist.scheduler import LoadScopeScheduling

from tests import skips
from tests.polling import pause_after
from tools.load import Ask, Load

REPOSITORY = Path(__file__).resolve().parents[1]
#: The longest a playbook may take: a deploy on several machines whose processors are emulated.
RUN_SECONDS = 1200
#: Visitors a second: what an emulated processor serves beside everything else.
VISITORS = 4.0
#: Units that no fault of the app may touch.
BYSTANDERS = ("ssh.service", "cron.service", "bystander.service", "systemd-journald.service")


@dataclass(frozen=True)
class Answer:
    """What a visitor got."""

    status: int
    body: str

    @property
    def json(self) -> dict:
        return json.loads(self.body)


@dataclass(frozen=True)
class Site:
    """One inventory entry, reached through the port forwarded from its machine."""

    name: str
    url: str

    def get(self, path: str = "/", seconds: float = 20, accept: str = "*/*") -> Answer:
        """Ask once; an error status is an answer, no answer is an OSError."""
        return self._ask(urllib.request.Request(self.url + path, headers={"Accept": accept}), seconds)

    def post(self, path: str, body: bytes, kind: str, seconds: float = 60) -> Answer:
        """Send once."""
        return self._ask(urllib.request.Request(self.url + path, data=body, headers={"Content-Type": kind}), seconds)

    @staticmethod
    def _ask(request: urllib.request.Request, seconds: float) -> Answer:
        try:
            with urllib.request.urlopen(request, timeout=seconds) as answer:
                return Answer(answer.status, answer.read().decode())
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read().decode())

    def healthy(self, path: str = "/health") -> bool:
        try:
            return self.get(path, seconds=5).status == 200
        except OSError:
            return False


@dataclass(frozen=True)
class Run:
    """How a playbook ended."""

    code: int
    output: str


def poll_until(true: Callable[[], object], seconds: float, what: str) -> float:
    """Ask until it is true and return the seconds that took; fail at the deadline."""
    start = asked = time.monotonic()
    while not true():
        if time.monotonic() - start > seconds:
            pytest.fail(f"after {seconds} s still not: {what}")
        pause_after(asked)
        asked = time.monotonic()
    return time.monotonic() - start


def hosts(scenario: Path, file: str) -> dict:
    """Return the hosts of one file of a scenario's inventory."""
    return yaml.safe_load((scenario / "inventory" / file).read_text())["all"]["hosts"]


@pytest.fixture
def poll() -> Callable[..., float]:
    return poll_until


@pytest.fixture
def scenario(request) -> Path:
    """The directory of the scenario that this test is of."""
    return next(path for path in request.path.parents if (path / "inventory").is_dir())


@pytest.fixture(autouse=True)
def machines_have_what_is_needed(request, scenario) -> None:
    """Fail a test at once on a machine that cannot show what it asserts: its figures would be wrong ones."""
    needs = {need for mark in request.node.iter_markers("needs") for need in mark.args}
    for name, machine in hosts(scenario, "machines.yml").items() if needs else ():
        if lacking := sorted(needs - set(machine["machine_can"])):
            pytest.fail(f"needs {', '.join(lacking)}, which {name} has not: name it in lab_needs", pytrace=False)


@pytest.fixture
def words(scenario) -> Callable[..., list[str]]:
    """Put together the command line of a playbook, as an operator types it."""

    def put(name: str, *arguments: str, **variables: object) -> list[str]:
        more = [word for key, value in variables.items() for word in ("-e", json.dumps({key: value}))]
        return ["ansible-playbook", "-i", str(scenario / "inventory"), f"playbooks/{name}.yml", *arguments, *more]

    return put


@pytest.fixture
def playbook(words) -> Callable[..., Run]:
    """Run a playbook against the scenario's machines."""

    def run(name: str, *arguments: str, **variables: object) -> Run:
        done = subprocess.run(
            words(name, *arguments, **variables),
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
        # Another release each time, also when the sentences are run twice on the same machines.
        name = str(uuid.uuid4())
        code = tmp_path / name
        shutil.copytree(REPOSITORY / "examples/currents", code, ignore=shutil.ignore_patterns("__pycache__", "*.db*"))
        with (code / "app.py").open("a") as file:
            file.write(f"\n# {name}\n{text}")
        return str(code)

    return make


@pytest.fixture
def entry(host) -> str:
    """The inventory entry that this test looks at."""
    return host.backend.get_pytest_id().removeprefix("ansible://")


@pytest.fixture
def site(scenario, entry) -> Site:
    """The site of that entry, from what the scenario's create step wrote down."""
    port = hosts(scenario, "hosts.yml")[entry].get("app_port", 5555)
    forwards = hosts(scenario, "machines.yml")[entry]["machine_forwards"]
    return Site(entry, f"http://127.0.0.1:{forwards[str(port)]}")


@pytest.fixture
def root(host) -> Iterator:
    """The host, with commands run as root."""
    with host.sudo():
        yield host


@pytest.fixture
def show(root) -> Callable[..., str]:
    """Ask systemd for one property of a unit."""

    def ask(unit: str, name: str) -> str:
        return root.check_output("systemctl show %s --property=%s --value", unit, name).strip()

    return ask


@pytest.fixture
def visitors(site) -> Callable[..., Load]:
    """Start visitors from outside who come at a steady rate; ``with visitors() as load`` ends them."""

    def start(path: str = "/api/hero", method: str = "GET", rate: float = VISITORS, **more) -> Load:
        return Load(Ask(site.url, path=path, method=method, **more), rate=rate, seconds=600)

    return start


@pytest.fixture
def workers(root) -> Callable[[], list[str]]:
    """The worker processes of the app."""
    # One command each time: a round trip costs a second where the processor is emulated.
    command = "ps -o pid= --ppid $(systemctl show currents.service --property=MainPID --value)"

    def ask() -> list[str]:
        return root.run(command).stdout.split()

    return ask


@pytest.fixture
def operations(root) -> Callable[[str], str]:
    """Ask an operations endpoint on the machine."""
    script = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect('/run/currents/operations.sock'); "
        "s.sendall(f'GET {sys.argv[1]} HTTP/1.0\\r\\n\\r\\n'.encode()); "
        "print(s.makefile(newline='').read().partition('\\r\\n\\r\\n')[2])"
    )

    def ask(path: str) -> str:
        return root.check_output("python3 -c %s %s", script, path)

    return ask


@pytest.fixture
def serving(operations) -> Callable[[], list[str]]:
    """The workers that have loaded the app; one that still boots serves nobody."""
    return lambda: [str(one["pid"]) for one in json.loads(operations("/memory"))["workers"] if one["state"] == "serves"]


@pytest.fixture
def exits(operations) -> Callable[[str], int]:
    """How many workers are gone for a reason, since the master started."""
    return lambda reason: json.loads(operations("/memory"))["worker_exits"][reason]


@pytest.fixture
def bystanders(root) -> Iterator[None]:
    """Nobody else on the host is touched, whatever a sentence does to the app."""

    def ask() -> str:
        return root.check_output(f"systemctl show {' '.join(BYSTANDERS)} --property=Id,InvocationID,ActiveState")

    before = ask()
    assert before.count("ActiveState=active") == len(BYSTANDERS)
    yield
    assert ask() == before


@pytest.fixture
def well(site, workers, bystanders, poll) -> Iterator[None]:
    """A sentence begins and ends with a site that is well, and with bystanders who noticed nothing."""
    poll(lambda: site.healthy() and len(workers()) == 2, 120, "the site well")
    yield
    poll(lambda: site.healthy() and len(workers()) == 2, 120, "the site well again")


@pytest.fixture
def machine(scenario, entry) -> str:
    """The lab's name of the machine."""
    return hosts(scenario, "machines.yml")[entry]["machine_name"]


class ByMachine(LoadScopeScheduling):
    """Run each machine's sentences in order, in a process of their own.

    Not by pytest-xdist's own groups: 3.8.0 marks them in the node id, which pytest 9.2 computes anew.
    """

    def _split_scope(self, nodeid: str) -> str:
        machine = re.search(r"ansible://(\w+)", nodeid)
        return machine[1] if machine else "controller"


def pytest_configure(config):
    # None is expected: a machine that cannot show what is asserted fails the test.
    skips.install(config, ())


def pytest_xdist_make_scheduler(config, log):
    return ByMachine(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Put the unit's state and the end of its journal under every failed sentence."""
    report = yield
    if report.when == "call" and report.failed and "root" in getattr(item, "funcargs", {}):
        root = item.funcargs["root"]
        for command in (
            "systemctl --no-pager --full status 'currents*' 'pypiserver*' 'buku*'",
            "journalctl --no-pager -q -n 40",
        ):
            report.sections.append((command, root.run(command).stdout))
    return report

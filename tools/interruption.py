"""Kills runs of Ansible, cuts the power under them, and sees whether a rerun heals what they left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools import demo
from tools.load import Ask, Load

ROOT = Path(__file__).resolve().parents[1]
APP = "currents"
EXAMPLE = ROOT / "examples" / APP
#: Two states; each name is also what the app tells of itself.
STATES: dict[str, dict[str, Any]] = {
    "A": {
        "host_journal_max_size": "500M",
        "app_environment": {"CURRENTS_STATE": "A"},
        "service_memory_high": "800M",
        "logrotate_keep": 14,
        "monitor_timeout_seconds": 10,
    },
    "B": {
        "host_journal_max_size": "400M",
        "app_environment": {"CURRENTS_STATE": "B"},
        "service_memory_high": "790M",
        "logrotate_keep": 13,
        "monitor_timeout_seconds": 11,
    },
}
#: A visitor who comes while the app starts waits; on an emulated processor for long.
VISITOR_SECONDS, VISITS_A_SECOND = 120.0, 0.5
BACK_SECONDS = 300.0


class InterruptError(Exception):
    """The test itself cannot go on; the message says why."""


@dataclass(frozen=True)
class Step:
    """A task of a run that ended."""

    number: int
    task: str
    changed: bool


@dataclass(frozen=True)
class Run:
    """A run of a playbook."""

    status: int
    steps: tuple[Step, ...]
    output: str
    seconds: float

    @property
    def changed(self) -> list[str]:
        """The tasks that changed something."""
        return [step.task for step in self.steps if step.changed]


@dataclass
class Outcome:
    """What came of one interruption; `faults` is empty when all is well."""

    where: str
    faults: list[str] = field(default_factory=list)
    served: str = ""
    requests: int = 0
    heal_seconds: float = 0.0


def points(steps: Sequence[Step]) -> list[int]:
    """Return the numbers after which a kill leaves a state of its own.

    A task that changed nothing leaves what was there before it. So of several such in a row only the first is taken.
    """
    before = [True, *(step.changed for step in steps)]
    return [step.number for step, previous in zip(steps, before, strict=False) if step.changed or previous]


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any], path: str = "") -> list[str]:
    """Name the places where two states of a host differ."""
    named = []
    for key in sorted({*wanted, *found}):
        one, other = wanted.get(key), found.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            named += differences(one, other, f"{path}{key}: ")
        elif one != other:
            named.append(f"{path}{key} is {other}, after an undisturbed run {one}")
    return named


class Site:
    """The site on one machine of the lab, deployed in one of two states."""

    def __init__(self, machine: str, inventory: Path, url: str, scratch: Path) -> None:
        self.machine, self.inventory, self.url, self.scratch = machine, inventory, url, scratch
        self._runs = 0
        for name, settings in STATES.items():
            code = scratch / name
            shutil.copytree(EXAMPLE, code, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "*.db*"))
            health = code / "currents" / "health.py"
            old = 'release=current_app.config["RELEASE"]'
            text = health.read_text(encoding="utf-8")
            if old not in text:
                raise InterruptError(f"{health} has no line {old!r} to change")
            health.write_text(text.replace(old, f'release="{name}"'), encoding="utf-8")
            variables = json.dumps({**settings, "app_source": str(code)})
            (scratch / f"{name}.json").write_text(variables, encoding="utf-8")

    def start(self, state: str, after: int = 0, playbook: str = "site.yml") -> tuple[subprocess.Popen[bytes], Path]:
        """Start a playbook, to be killed after a number of tasks; return the process and the trace of its tasks."""
        self._runs += 1
        trace = self.scratch / f"{self._runs}.trace"
        trace.write_text("", encoding="utf-8")
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_CALLBACK_PLUGINS": f"{ROOT / 'plugins/callback'}:{ROOT / 'tools/callback'}",
            "ANSIBLE_CALLBACKS_ENABLED": "kill_after",
            "INTERRUPT_TRACE": str(trace),
            "INTERRUPT_AFTER": str(after),
        }
        program = Path(sys.executable).with_name("ansible-playbook")
        with trace.with_suffix(".log").open("wb") as log:
            process = subprocess.Popen(
                [program, "-i", self.inventory, playbook, "-e", f"@{self.scratch / state}.json"],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return process, trace

    def run(self, state: str, after: int = 0, playbook: str = "site.yml") -> Run:
        """Run a playbook; a run that is killed has the status -9."""
        begin = time.monotonic()
        process, trace = self.start(state, after, playbook)
        status = process.wait()
        steps = tuple(Step(one["number"], one["task"], one["changed"]) for one in lines(trace) if "number" in one)
        output = trace.with_suffix(".log").read_text(encoding="utf-8", errors="replace")
        return Run(status, steps, output, time.monotonic() - begin)

    def deploy(self, state: str, playbook: str) -> Run:
        """Run a playbook to its end.

        Raises:
            InterruptError: it failed.
        """
        done = self.run(state, playbook=playbook)
        if done.status != 0:
            raise InterruptError(f"{playbook} failed without being disturbed:\n{done.output[-3000:]}")
        return done

    def on_host(self, *command: str, text: str = "") -> str:
        """Run a command on the machine as root; return what it prints.

        Raises:
            InterruptError: it failed.
        """
        words = [sys.executable, "-m", "lab", "ssh", self.machine, "sudo", *command]
        done = subprocess.run(words, cwd=ROOT, input=text, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise InterruptError(f"{' '.join(command)} on the host failed: {done.stderr.strip()}")
        return done.stdout

    def state(self) -> dict[str, Any]:
        """Return what the host is like, once no release is watched any more.

        Raises:
            InterruptError: the host cannot be asked, or a release is watched for ever.
        """
        show = ("systemctl", "show", f"{APP}-watch.service", "--property=ActiveState")
        wait_for(lambda: self.on_host(*show).strip() == "ActiveState=inactive", BACK_SECONDS, "the watch's end")
        script = (ROOT / "tools" / "host_state.py").read_text(encoding="utf-8")
        found: dict[str, Any] = json.loads(self.on_host("python3", "-", APP, text=script))
        return found

    def tells(self) -> str:
        """Return which state the app tells of itself. Raises OSError without a healthy answer."""
        with urllib.request.urlopen(f"{self.url}/health", timeout=VISITOR_SECONDS) as answer:
            return str(json.load(answer)["release"])

    def forget(self, release: str) -> None:
        """Remove a release that is not current, so that the next deploy of it has to build it."""
        self.on_host("rm", "-rf", f"/srv/{APP}/releases/{release}")

    def cut_power(self) -> None:
        """Cut the machine's power and start it again; the same disk."""
        demo.lab("cut-power", self.machine)


def lines(trace: Path) -> Iterator[dict[str, Any]]:
    """Return what a run has written down so far; its last line may be half there."""
    for line in trace.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)


def wait_for(true: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll to a deadline.

    Raises:
        InterruptError: it did not become true; names what.
    """
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise InterruptError(f"after {seconds:.0f} s still not: {what}")
        time.sleep(0.1)


class Trial:
    """Interruptions of runs of a playbook that lead from one state to the other."""

    def __init__(self, site: Site, playbook: str = "site.yml") -> None:
        self.site, self.playbook = site, playbook
        self.now = "B"
        self.wanted: dict[str, dict[str, Any]] = {}
        self.steps: tuple[Step, ...] = ()

    def prepare(self) -> None:
        """Bring the site to both states undisturbed; remember what the host is like then, and the tasks of a change."""
        # The very first is not like the others: with nothing to go back to, no release is watched.
        self.site.deploy("B", self.playbook)
        for name in STATES:
            self.steps = self.site.deploy(name, self.playbook).steps
            self.wanted[name] = self.site.state()
        # Only what serves now stays: the next run has to build its release.
        for release in set(self.wanted["B"]["releases"]) - {self.wanted["B"]["current"]}:
            self.site.forget(release)

    @property
    def next(self) -> str:
        """The state that the next run leads to."""
        return "B" if self.now == "A" else "A"

    def kill(self, *numbers: int) -> Outcome:
        """Kill runs to the other state, one after the other, each after a task of its own; then heal."""
        target = self.next
        outcome = Outcome(", then ".join(f"{n} {self.steps[n - 1].task}" for n in numbers))
        with self._visitors() as load:
            for number in numbers:
                done = self.site.run(target, after=number, playbook=self.playbook)
                if done.status != -signal.SIGKILL:
                    outcome.faults.append(f"the run ended with {done.status} instead of being killed after {number}")
                self._look(outcome)
            self._heal(outcome, target)
        self._judge(outcome, load)
        return outcome

    def cut(self, task: str, seconds: float) -> Outcome:
        """Cut the machine's power some seconds after a task of a run to the other state has begun; then heal."""
        target = self.next
        outcome = Outcome(f"power, {seconds:.0f} s into {task}")
        process, trace = self.site.start(target, playbook=self.playbook)
        try:
            wait_for(lambda: {"begins": task} in lines(trace), 600, f"the task {task!r} begins")
            time.sleep(seconds)
            self.site.cut_power()
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        begin = time.monotonic()
        wait_for(self._answers, BACK_SECONDS, "the site back by itself after the power cut")
        outcome.served = f"after {time.monotonic() - begin:.0f} s "
        self._look(outcome)
        with self._visitors() as load:
            # What was being sent when the power failed stays: Ansible removes only what a living run has sent.
            self._heal(outcome, target, left_out={"scratch"})
        self._judge(outcome, load)
        return outcome

    def _visitors(self) -> Load:
        ask = Ask(self.site.url, path="/health", timeout=VISITOR_SECONDS)
        return Load(ask, rate=VISITS_A_SECOND, seconds=3600)

    def _answers(self) -> bool:
        try:
            return bool(self.site.tells())
        except OSError:
            return False

    def _look(self, outcome: Outcome) -> None:
        """See what serves after an interruption."""
        try:
            tells = self.site.tells()
        except (OSError, ValueError) as error:
            outcome.faults.append(f"no healthy answer after the interruption: {error}")
            return
        outcome.served += tells
        state = self.site.state()
        for what in ("runs", "current"):
            if not state["releases"].get(state[what]):
                outcome.faults.append(f"what {what} is no finished release: {state[what]}")
        for name, wanted in self.wanted.items():
            if tells == name and state["runs"] != wanted["current"]:
                outcome.faults.append(f"the app says {tells}, but runs in {state['runs']}")

    def _heal(self, outcome: Outcome, target: str, left_out: Set[str] = frozenset()) -> None:
        """Run to the end, compare all but some parts of the host's state, and run once more."""
        done = self.site.run(target, playbook=self.playbook)
        outcome.heal_seconds = done.seconds
        self.now = target
        if done.status != 0:
            outcome.faults.append(f"the rerun failed:\n{done.output[-2000:]}")
            return
        releases = {wanted["current"]: True for wanted in self.wanted.values()}
        wanted, found = {**self.wanted[target], "releases": releases}, self.site.state()
        for part in left_out:
            del wanted[part], found[part]
        outcome.faults += differences(wanted, found)
        again = self.site.run(target, playbook=self.playbook)
        if again.status != 0 or again.changed:
            outcome.faults.append(f"the run after it ended with {again.status} and changed {again.changed}")
        tells = self.site.tells()
        if tells != target:
            outcome.faults.append(f"the app says {tells} instead of {target}")
        # The run that leads back has to build its release anew.
        self.site.forget(self.wanted[self.next]["current"])

    @staticmethod
    def _judge(outcome: Outcome, load: Load) -> None:
        summary = load.stop().summary()
        outcome.requests += sum(summary.outcomes.values())
        lost = {name: count for name, count in summary.outcomes.items() if name != "ok" and count}
        if lost:
            outcome.faults.append(f"visitors were lost: {lost}")

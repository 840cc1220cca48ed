"""Break the infrastructure line by line, in copies of the repository, and see whether a test notices each time.

The files in `tools/mutations` list the directives that matter: where each stands, what it is turned into, and which
tests should see it. Every entry is tried in three steps, as far as needed: its own, then the whole unit suite, and with
``--molecule`` its scenario on real machines. What nobody notices has survived: that line may break unseen.

Exit codes: 0 when every one was noticed, 1 when one survived, 2 when nothing can be said (the list is out of date, or
the tests are red without any mutation).
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tools.markdown import table
from tools.mutation_list import LIST, ListError, Mutation, Plan, check, line_of, load

ROOT = Path(__file__).resolve().parents[1]
SIDE_BY_SIDE = 2
POLL_SECONDS = 0.05
#: How long pytest may take to clear up after it was interrupted.
GRACE_SECONDS = 15
#: pytest's exit status when it has run no test.
NO_TESTS = 5
#: "FAILED tests/unit/test_a.py::test_b[c] - AssertionError", from pytest or, drawn around, from Molecule.
RED = re.compile(r"(?:^|[\s│])(?:FAILED|ERROR) (\S*\.py(?:::.+?)?)(?: - .*)?\s*│?$", re.MULTILINE)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
NO_MACHINE = "no machine needed"
NOTICED, SURVIVED = "noticed", "survived"
OWN, SUITE, SCENARIO = "its own tests", "the whole unit suite", "a scenario"

HEADING = """\
# What the tests notice

`make mutation` breaks one line after the other, each in a copy of the repository, and runs the tests on it: those that
should notice, then the whole unit suite. A test counts when it fails twice with the line broken and passes with the
line whole; tests that hang have noticed too, and their row says so. What nobody notices could break unseen, so nothing
may be left. The lines are listed in `tools/mutations`; this page is what the last run wrote.
"""


class Stopped(Exception):
    """Somebody has interrupted the run."""


@dataclass(frozen=True)
class Run:
    """How one run of tests ended: red or not, the first that failed, whether the time was up, or nothing was run."""

    red: bool
    first: str
    hung: bool
    idle: bool
    output: str


@dataclass(frozen=True)
class Verdict:
    """What became of one mutation."""

    name: str
    file: str
    line: int
    outcome: str
    by: str
    """The test that noticed first."""
    step: str
    """Where it was noticed: its own tests, the whole suite, or a scenario."""
    seconds: float


def snapshot(root: Path, target: Path) -> None:
    """Copy what git knows or would add, as it stands now, and link the virtual environment."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    for name in sorted(filter(None, set(names.split("\0")))):
        source, copy = root / name, target / name
        # A file that was deleted and not yet committed is still in the list.
        if os.path.lexists(source):
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy, follow_symlinks=False)
    # Where it is itself a link, git takes it for a file.
    if (root / ".venv").exists() and not (target / ".venv").exists():
        (target / ".venv").symlink_to(root / ".venv")


@dataclass
class Bench:
    """Where the copies are made and the tests are run.

    Attributes:
        pristine: a copy of the repository in which nothing is ever run, so that no compiled file of Python's is in it.
        top: directory of the copies.
        stop: set when the run was interrupted.
    """

    pristine: Path
    top: Path
    stop: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def copy(self, one: Mutation | None) -> Iterator[Path]:
        """Make a copy with the mutation in it, or without any; it is gone at the end."""
        with tempfile.TemporaryDirectory(dir=self.top, ignore_cleanup_errors=True) as name:
            copy = Path(name) / "repository"
            shutil.copytree(self.pristine, copy, symlinks=True)
            if one:
                path = copy / one.file
                text = path.read_text(encoding="utf-8")
                path.write_text(text.replace(one.find, one.replace), encoding="utf-8")
            yield copy

    def run(self, command: Sequence[str], copy: Path, seconds: float) -> Run:
        """Run a command in a copy until it ends or the time is up; nothing of its process group stays.

        Raises:
            Stopped: the whole run was interrupted meanwhile.
        """
        # To a file: a process that outlives its parent would keep a pipe open.
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
            process = subprocess.Popen(
                command, cwd=copy, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
            try:
                hung = not self.ended(process.pid, time.monotonic() + seconds)
                if hung:
                    # So that the tests stop what they have started.
                    os.kill(process.pid, signal.SIGINT)
                    self.ended(process.pid, time.monotonic() + GRACE_SECONDS, whatever=True)
            finally:
                # The number of the group is not given to anybody else before its leader has been waited for.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                status = process.wait()
            if self.stop.is_set():
                raise Stopped
            output.seek(0)
            text = COLOUR.sub("", output.read())
        found = RED.search(text)
        return Run(hung or status not in (0, NO_TESTS), found[1] if found else "", hung, status == NO_TESTS, text)

    def ended(self, pid: int, deadline: float, whatever: bool = False) -> bool:
        """Wait for the end of a process, without taking its exit status; tell whether it ended in time."""
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            if time.monotonic() > deadline or (self.stop.is_set() and not whatever):
                return False
            time.sleep(POLL_SECONDS)
        return True

    def pytest(self, copy: Path, words: Sequence[str], seconds: float) -> Run:
        """Run tests in a copy up to the first that fails."""
        return self.run([sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *words], copy, seconds)

    def noticed(self, copy: Path, words: Sequence[str], seconds: float) -> str | None:
        """Run tests in a mutated copy; return which one notices, None when none does.

        It must notice twice, and be green without the mutation at the same time: a test that fails now and then, on a
        busy computer say, proves nothing. It is left out, and the others are asked. A hang is not waited for again.
        """
        moody: list[str] = []
        while True:
            first = self.pytest(copy, [*words, *(f"--deselect={name}" for name in moody)], seconds)
            if first.hung:
                return f"a hang: not done after {seconds:g} s"
            if not first.red or first.first in moody:
                return None
            again = [first.first] if first.first else words
            with self.copy(None) as sound:
                proves = self.pytest(copy, again, seconds).red and not self.pytest(sound, again, seconds).red
            if proves:
                return first.first or "the tests cannot be loaded"
            if not first.first:
                # pytest named no test, so there is none to leave out.
                return None
            moody.append(first.first)


@dataclass(frozen=True)
class Step:
    """One way of looking, tried on all that nobody has noticed so far."""

    name: str
    look: Callable[[Mutation], str | None]
    at_once: int = SIDE_BY_SIDE


def steps_of(bench: Bench, plan: Plan, molecule: bool) -> list[Step]:
    """Return the steps in their order, the fast and precise one first."""
    ignored = [f"--ignore={name}" for name in plan.ignored]

    def own(one: Mutation) -> str | None:
        with bench.copy(one) as copy:
            return bench.noticed(copy, one.tests, plan.tests_seconds)

    def suite(one: Mutation) -> str | None:
        with bench.copy(one) as copy:
            return bench.noticed(copy, [*ignored, *plan.suite], plan.suite_seconds)

    def scenario(one: Mutation) -> str | None:
        if not one.scenario:
            return None
        with bench.copy(one) as copy:
            # Not twice: it takes long, and its own sentences hold the controls.
            run = bench.run([sys.executable, "-m", "tools.scenarios", one.scenario], copy, plan.scenario_seconds)
        if run.hung:
            return f"a hang: not done after {plan.scenario_seconds:g} s"
        return (run.first or "the playbook itself") if run.red else None

    steps = [Step(OWN, own), Step(SUITE, suite)]
    return [*steps, Step(SCENARIO, scenario, at_once=1)] if molecule else steps


def control(bench: Bench, words: Sequence[str], seconds: float) -> None:
    """Run tests in a copy without a mutation; one that fails, and alone does not, is left out and named.

    Raises:
        ListError: they are red, or there are none.
    """
    moody: list[str] = []
    with bench.copy(None) as copy:
        while True:
            run = bench.pytest(copy, [*words, *(f"--deselect={name}" for name in moody)], seconds)
            if not run.red and not run.idle:
                return
            first = run.first
            if run.hung or not first or first in moody or bench.pytest(copy, [first], seconds).red:
                tail = "\n".join(run.output.splitlines()[-20:])
                raise ListError(f"the tests are red without any mutation, so nothing can be said:\n{tail}")
            print(f"control: {first} fails now and then", flush=True)
            moody.append(first)


def try_all(bench: Bench, plan: Plan, mutations: Sequence[Mutation], molecule: bool) -> list[Verdict]:
    """Try every mutation, one step after the other; print a line for each as soon as it is decided.

    Raises:
        ListError: a control is red.
    """
    named = sorted({name for one in mutations for name in one.tests})
    ignored = [f"--ignore={name}" for name in plan.ignored]
    controls = {
        OWN: (named, plan.suite_seconds),
        SUITE: ([*ignored, *plan.suite], plan.suite_seconds),
    }
    verdicts: dict[str, Verdict] = {}
    seconds = dict.fromkeys((one.name for one in mutations), 0.0)
    steps = steps_of(bench, plan, molecule)
    for step in steps:
        left = [one for one in mutations if one.name not in verdicts]
        if not left:
            break
        if step.name in controls:
            print(f"control: {step.name}, nothing broken", flush=True)
            control(bench, *controls[step.name])

        def timed(one: Mutation, step: Step = step) -> tuple[Mutation, str | None, float]:
            start = time.monotonic()
            return one, step.look(one), time.monotonic() - start

        with ThreadPoolExecutor(step.at_once) as pool:
            try:
                for done in as_completed([pool.submit(timed, one) for one in left]):
                    one, by, took = done.result()
                    seconds[one.name] += took
                    if by is None and step is not steps[-1]:
                        print(f"[{len(verdicts):3}/{len(mutations)}] not by {step.name}: {one.name}", flush=True)
                        continue
                    outcome = SURVIVED if by is None else NOTICED
                    verdicts[one.name] = Verdict(
                        name=one.name,
                        file=one.file,
                        line=line_of(bench.pristine, one),
                        outcome=outcome,
                        by=by or "",
                        step="" if by is None else step.name,
                        seconds=round(seconds[one.name], 1),
                    )
                    print(
                        f"[{len(verdicts):3}/{len(mutations)}] {outcome} {seconds[one.name]:6.1f} s  {one.name}"
                        + (f"  <- {by}" if by else ""),
                        flush=True,
                    )
            except BaseException:
                bench.stop.set()
                pool.shutdown(cancel_futures=True)
                raise
    return [verdicts[one.name] for one in mutations]


def machine_kind(verdicts: Sequence[Verdict]) -> str:
    """Return what the machines of the run were."""
    if not any(verdict.step == SCENARIO for verdict in verdicts):
        return NO_MACHINE
    # Not earlier: the lab is no part of a run without machines.
    from lab.qemu import host_accelerator  # noqa: PLC0415

    return host_accelerator().name.upper()


def page(verdicts: Sequence[Verdict], date: str, machine: str) -> str:
    """Return the result as a page for people."""
    count = sum(verdict.outcome == NOTICED for verdict in verdicts)
    rows = [
        [
            verdict.name,
            f"`{verdict.file}`, line {verdict.line}",
            f"`{verdict.by}`" if verdict.by else "**nobody**",
            f"{verdict.seconds:.1f}",
        ]
        for verdict in verdicts
    ]
    return "\n".join(
        [
            HEADING,
            f"{date}: {count} of {len(verdicts)} noticed; machine: {machine}.",
            "",
            *table(["What was broken", "Where", "Who noticed first", "Seconds"], rows),
            "",
        ]
    )


def write(directory: Path, verdicts: Sequence[Verdict], date: str, machine: str) -> None:
    """Write the result for programs and for people."""
    count = sum(verdict.outcome == NOTICED for verdict in verdicts)
    result = {
        "date": date,
        "machine": machine,
        "noticed": count,
        "mutations": len(verdicts),
        "verdicts": [asdict(verdict) for verdict in verdicts],
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "mutation.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    (directory / "mutation.md").write_text(page(verdicts, date, machine), encoding="utf-8")


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--molecule", action="store_true", help="also run scenarios on real machines")
    parser.add_argument("--only", metavar="TEXT", help="only entries with this in their name or file; writes no result")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Run the test; return the exit code."""
    given = arguments(argv)
    root: Path = given.root.resolve()
    try:
        with tempfile.TemporaryDirectory(prefix="mutation-", ignore_cleanup_errors=True) as name:
            pristine = Path(name) / "pristine"
            snapshot(root, pristine)
            plan = load(pristine / LIST)
            wanted = (given.only or "").lower()
            mutations = [one for one in plan.mutations if wanted in f"{one.name} {one.file}".lower()]
            check(pristine, mutations)
            verdicts = try_all(Bench(pristine, Path(name)), plan, mutations, given.molecule)
    except ListError as error:
        print(error)
        return 2
    except KeyboardInterrupt:
        print("interrupted; no result was written")
        return 130
    if not given.only:
        write(root / ".cache" / "results", verdicts, datetime.date.today().isoformat(), machine_kind(verdicts))
    survivors = [verdict for verdict in verdicts if verdict.outcome == SURVIVED]
    for verdict in survivors:
        print(f"survived: {verdict.name} ({verdict.file}, line {verdict.line})")
    print(f"\n{len(verdicts) - len(survivors)} of {len(verdicts)} noticed, {len(survivors)} survived")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

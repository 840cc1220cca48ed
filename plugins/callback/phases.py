"""Standard output of a run for an operator: phases, what changed, what failed, what was restarted."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible import constants as C
from ansible import context
from ansible.plugins.callback.default import CallbackModule as DefaultCallback
from ansible.utils.color import colorize, hostcolor

# This repository is neither a collection nor installed: Ansible loads this file by path.
_REPOSITORY = Path(__file__).resolve().parents[2]
if str(_REPOSITORY) not in sys.path:
    sys.path.append(str(_REPOSITORY))

from plugins.module_utils.run_report import (
    Phase,
    at_once,
    counted,
    failure_lines,
    host_rows,
    restarts_in,
    results_in,
    table,
)

DOCUMENTATION = """
name: phases
type: stdout
short_description: Phases with their seconds instead of a wall of JSON
description:
  - Prints one line for each phase (a role, else a play) when it is over, every changed task, and failures as text.
  - From -v on it prints what the default callback prints.
  - At the end it prints a table of phases, what was restarted and why, the usual recap and the seconds in all.
  - A result's key C(restarts), a list of C(unit), C(action) and C(why), feeds the list of restarts.
  - A result's key C(serves), with C(release) and C(note), becomes a table of hosts and the release that each has.
  - A result's key C(summary), a list of pairs of label and value, is printed as a table at the end.
extends_documentation_fragment:
  - default_callback
  - result_format_callback
"""

SLOW_SECONDS = 5.0


class CallbackModule(DefaultCallback):
    """Prints phases; hands everything to the default callback from -v on."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "phases"

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._begin = clock()
        self._phases: dict[str, Phase] = {}
        self._stretch: Phase | None = None
        self._stretch_begin = 0.0
        self._task_begin = 0.0
        self._task: Any = None
        self._restarts: list[tuple[str, str, str, str]] = []
        self._summaries: dict[str, dict[str, str]] = {}
        self._serves: dict[str, dict[str, str]] = {}
        self._locked: list[str] = []
        self._retried: set[tuple[str, str]] = set()
        self._skipped_controller: set[str] = set()
        self._progress_shown = False

    # Output

    @property
    def _quiet(self) -> bool:
        return self._display.verbosity == 0

    def _say(self, text: str, color: str | None = None, stderr: bool = False) -> None:
        self._clear_progress()
        self._display.display(text, color=color, stderr=stderr)

    def _show_progress(self, text: str) -> None:
        """Show the running task on a terminal, to be overwritten by the next line."""
        if self._quiet and sys.stdout.isatty():
            self._clear_progress()
            sys.stdout.write("... " + text[: max(20, self._display.columns - 5)])
            sys.stdout.flush()
            self._progress_shown = True

    def _clear_progress(self) -> None:
        if self._progress_shown:
            sys.stdout.write("\r\033[K")
            sys.stdout.flush()
            self._progress_shown = False

    def _print_task_banner(self, task: Any) -> None:
        if not self._quiet:
            super()._print_task_banner(task)
            return
        # Molecule finds the tasks of a second run that changed something by these two lines: TASK, then changed.
        self._say(f"TASK [{self._last_task_name or task.get_name().strip()}]")
        self._last_task_banner = task._uuid

    def _banner_once(self, task: Any) -> None:
        if self._last_task_banner != task._uuid:
            self._print_task_banner(task)

    # Phases

    def _enter(self, name: str) -> None:
        if self._stretch is not None and self._stretch.name == name:
            return
        self._leave()
        self._stretch, self._stretch_begin = Phase(name), self._clock()

    def _leave(self) -> None:
        """End the stretch: print its line and add it to its phase."""
        stretch, self._stretch = self._stretch, None
        if stretch is None or stretch.tasks + stretch.failed == 0:
            return
        stretch.seconds = self._clock() - self._stretch_begin
        total = self._phases.setdefault(stretch.name, Phase(stretch.name))
        for key in ("seconds", "tasks", "changed", "failed"):
            setattr(total, key, getattr(total, key) + getattr(stretch, key))
        if self._quiet:
            counts = f"{stretch.tasks} ok" + (f", {stretch.changed} changed" if stretch.changed else "")
            counts += f", {stretch.failed} failed" if stretch.failed else ""
            color = C.COLOR_ERROR if stretch.failed else C.COLOR_CHANGED if stretch.changed else C.COLOR_OK
            self._say(f"{stretch.name:<24} {stretch.seconds:6.1f} s  {counts}", color)

    def _end_task(self) -> None:
        """Name the task that has just ended when it was slow; called when the next one starts."""
        self._clear_progress()
        if self._task is None:
            return
        seconds, name = self._clock() - self._task_begin, self._task.get_name().strip()
        self._task = None
        if self._quiet and seconds > SLOW_SECONDS:
            self._say(f"  {seconds:.1f} s for: {name}", C.COLOR_VERBOSE)

    def _task_start(self, task: Any, prefix: str | None = None) -> None:
        self._end_task()
        role = task._role.get_name() if task._role else None
        self._enter(role or self._play_name())
        self._task, self._task_begin = task, self._clock()
        if self._quiet:
            # Not kept for strategies in which hosts are at different tasks.
            shared = self._play is not None and str(self._play.strategy).endswith("linear")
            self._last_task_name = task.get_name().strip() if shared else None
        else:
            super()._task_start(task, prefix)
        if task.action.rsplit(".", 1)[-1] != "pause":
            self._show_progress(task.get_name().strip())

    def _play_name(self) -> str:
        return (self._play.get_name().strip() if self._play else "") or "play"

    def _note(self, result: Any, failed: bool = False) -> None:
        """Count a result, and collect what it says about restarts and for the summary."""
        data, host = result.result, result.host.get_name()
        if self._stretch is not None:
            self._stretch.failed += failed
            self._stretch.tasks += not failed
            self._stretch.changed += bool(data.get("changed")) and not failed
        why = f"task {result.task.get_name().strip()}"
        state = result.task.args.get("state")
        self._restarts += [(host, *one) for one in restarts_in(data, result.task.action, state, why)]
        if isinstance(data.get("serves"), dict):
            self._serves[host] = data["serves"]
        elif data.get("unreachable") and host in self._serves:
            self._serves[host] = {"release": "unknown", "note": "could not be reached any more"}
        if result.task.action == "deploy_lock" and not failed and not data.get("skipped"):
            self._locked.append(host)
        for one in results_in(data):
            rows = one.get("summary")
            if isinstance(rows, list) and all(isinstance(row, (list, tuple)) and len(row) == 2 for row in rows):
                # A later task may say the same again; the first place and the last value count.
                self._summaries.setdefault(host, {}).update((str(label), str(value)) for label, value in rows)

    # Events of the run

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Say first when nothing will be changed."""
        if self._quiet:
            if context.CLIARGS.get("check"):
                self._say("check mode: nothing is changed", C.COLOR_VERBOSE)
        else:
            super().v2_playbook_on_start(playbook)

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Begin a phase that lasts until a task of a role comes."""
        self._end_task()
        self._leave()
        if self._quiet:
            self._play = play
        else:
            super().v2_playbook_on_play_start(play)

    def v2_playbook_on_no_hosts_matched(self) -> None:
        """Say loudly that a play did nothing: Ansible itself ends such a run with success.

        Not of a play of the controller, which no --limit names.
        """
        if self._play is not None and self._play.hosts == ["localhost"]:
            return
        message = f"no host matched: the play '{self._play_name()}' did nothing. Is the inventory right?"
        self._say(message, C.COLOR_ERROR)

    def v2_playbook_on_no_hosts_remaining(self) -> None:
        """Say that the run stops early."""
        self._say("no host is left: the run stops here", C.COLOR_ERROR)

    def v2_playbook_on_include(self, included_file: Any) -> None:
        """Keep quiet about included files."""
        if not self._quiet:
            super().v2_playbook_on_include(included_file)

    def v2_runner_retry(self, result: Any) -> None:
        """Say once for each task and host that it is being waited for."""
        if not self._quiet:
            super().v2_runner_retry(result)
            return
        key = (result.task._uuid, result.host.get_name())
        if key not in self._retried:
            self._retried.add(key)
            tries = result.result.get("retries", "?")
            self._say(f"waiting: [{self.host_label(result)}] {result.task.get_name().strip()} (up to {tries} tries)")

    # Results

    def v2_runner_on_ok(self, result: Any) -> None:
        """Print a changed task, and the text of a debug task; stay silent about what was right already."""
        self._note(result)
        if not self._quiet:
            super().v2_runner_on_ok(result)
            return
        if result.result.get("changed") and not ("results" in result.result and result.task.loop):
            self._banner_once(result.task)
            self._say(f"changed: [{self.host_label(result)}]", C.COLOR_CHANGED)
        self._handle_warnings(result.result)
        self._print_debug(result)

    def _print_debug(self, result: Any) -> None:
        """Print the message of a debug task, which somebody wrote to be read."""
        if result.task.action in C._ACTION_DEBUG and "censored" not in result.result:
            message = result.result.get("msg")
            if message is not None and not result.result.get("skipped"):
                shown = message if isinstance(message, str) else self._dump_results({"msg": message}, indent=2)
                host = self.host_label(result)
                self._say("\n".join(f"{host}: {line}" for line in shown.splitlines()), C.COLOR_DEBUG)

    def v2_runner_item_on_ok(self, result: Any) -> None:
        """Print an item that changed something."""
        if not self._quiet:
            super().v2_runner_item_on_ok(result)
            return
        if result.result.get("changed"):
            self._banner_once(result.task)
            label = self._get_item_label(result.result)
            self._say(f"changed: [{self.host_label(result)}] => (item={label})", C.COLOR_CHANGED)
        self._handle_warnings(result.result)
        self._print_debug(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Print a failure as text, with the place of its task."""
        self._note(result, failed=True)
        if not self._quiet:
            super().v2_runner_on_failed(result, ignore_errors)
            return
        items_printed = "results" in result.result and result.task.loop
        lines = [] if items_printed else failure_lines(result.result)
        self._print_failure(result, "ignored" if ignore_errors else "fatal", "FAILED!", lines)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        """Print the failure of one item of a loop."""
        if not self._quiet:
            super().v2_runner_item_on_failed(result)
            return
        label = self._get_item_label(result.result)
        self._print_failure(result, "failed", f"(item={label})", failure_lines(result.result))

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Print that a host cannot be reached, and what ssh said."""
        self._note(result, failed=True)
        if not self._quiet:
            super().v2_runner_on_unreachable(result)
            return
        self._print_failure(result, "fatal", "UNREACHABLE!", failure_lines(result.result))

    def _print_failure(self, result: Any, word: str, what: str, lines: list[str]) -> None:
        color = C.COLOR_SKIP if word == "ignored" else C.COLOR_ERROR
        self._banner_once(result.task)
        self._handle_warnings(result.result)
        shown = [f"{word}: [{self.host_label(result)}]: {what}", *(f"    {line}" for line in lines)]
        if word == "fatal" and (path := result.task.get_path()):
            shown.append(f"    (task at {path})")
        self._say("\n".join(shown), color, stderr=self.get_option("display_failed_stderr"))

    def v2_runner_on_skipped(self, result: Any) -> None:
        """Keep quiet about skipped tasks."""
        if result.host.implicit:
            self._skipped_controller.add(result.host.get_name())
        if not self._quiet:
            super().v2_runner_on_skipped(result)

    def v2_runner_item_on_skipped(self, result: Any) -> None:
        """Keep quiet about skipped items."""
        if not self._quiet:
            super().v2_runner_item_on_skipped(result)

    def v2_on_file_diff(self, result: Any) -> None:
        """Print differences as Ansible does; they only come with --diff."""
        self._clear_progress()
        super().v2_on_file_diff(result)

    # End of the run

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Print the table of phases, restarts, summaries and the recap."""
        self._end_task()
        self._leave()
        self._say("")
        rows = [(p.name, f"{p.seconds:.1f} s", p.changed, p.failed) for p in self._phases.values()]
        if rows:
            for line in table([("Phase", "time", "changed", "failed"), *rows], right=(1, 2, 3)):
                self._say(line)
            self._say("")
        self._print_restarts()
        for host, pairs in self._summaries.items():
            self._say(f"\n{host}")
            for line in table((f"  {label}", value) for label, value in pairs.items()):
                self._say(line)
        totals = ((host, stats.summarize(host)) for host in self._locked)
        failed = [host for host, total in totals if total["failures"] or total["unreachable"]]
        if hosts := host_rows(self._serves, failed):
            self._say("")
            for line in table(hosts):
                self._say(line)
        self._print_recap(stats)

    def _print_restarts(self) -> None:
        dry = context.CLIARGS.get("check")
        word = "Would restart" if dry else "Restarted"
        if not self._restarts:
            self._say(f"{word}: nothing")
            return
        for host, unit, action, why in at_once(self._restarts) if dry else dict.fromkeys(self._restarts):
            reason = f": {why}" if why else ""
            self._say(f"{word}: {unit} on {host} ({action}){reason}", C.COLOR_CHANGED)

    def _print_recap(self, stats: Any) -> None:
        totals = {host: stats.summarize(host) for host in sorted(stats.processed)}
        # The controller itself takes part in the check for an empty inventory; that is nobody's host.
        for host in self._skipped_controller:
            if host in totals and not any(n for key, n in totals[host].items() if key != "skipped"):
                del totals[host]
        self._say("")
        for host, total in totals.items():
            for color in (True, False):
                columns = (
                    ("ok", total["ok"], C.COLOR_OK),
                    ("changed", total["changed"], C.COLOR_CHANGED),
                    ("unreachable", total["unreachable"], C.COLOR_UNREACHABLE),
                    ("failed", total["failures"], C.COLOR_ERROR),
                    ("skipped", total["skipped"], C.COLOR_SKIP),
                    ("rescued", total["rescued"], C.COLOR_OK),
                    ("ignored", total["ignored"], C.COLOR_WARN),
                )
                cells = [colorize(name, count, shade if color else None) for name, count, shade in columns]
                line = f"{hostcolor(host, total, color)} : {' '.join(cells)}"
                self._display.display(line, screen_only=color, log_only=not color)
        changed = sum(total["changed"] for total in totals.values())
        failed = sum(total["failures"] + total["unreachable"] for total in totals.values())
        color = C.COLOR_ERROR if failed else C.COLOR_CHANGED if changed else C.COLOR_OK
        seconds = self._clock() - self._begin
        hosts = counted(len(totals), "host")
        self._say(f"Finished: {changed} changed, {failed} failed on {hosts} in {seconds:.1f} s", color)

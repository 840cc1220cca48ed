"""Text of a run's report, made from the results of tasks: what the callback `phases` prints. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

TAIL_LINES = 20
_SERVICE_ACTIONS = frozenset(
    prefix + name
    for prefix in ("", "ansible.builtin.", "ansible.legacy.")
    for name in ("systemd", "systemd_service", "service")
)
_RESTARTING = {"restarted": "restart", "reloaded": "reload"}


@dataclass
class Phase:
    """What has happened in one role or play so far; several stretches of one name add up.

    Attributes:
        seconds: wall time, all hosts together.
        tasks: results that were neither skipped nor failed, over all hosts.
        changed: results that changed something.
        failed: results that failed or did not reach the host, ignored and rescued ones included.
    """

    name: str
    seconds: float = 0.0
    tasks: int = 0
    changed: int = 0
    failed: int = 0


def tail(text: object, lines: int = TAIL_LINES) -> list[str]:
    """Return the last lines of an output, without trailing blank ones; says how many were left out."""
    every = str(text or "").rstrip().splitlines()
    left_out = len(every) - lines
    return every if left_out <= 0 else [f"({left_out} lines before)", *every[-lines:]]


def failure_lines(result: Mapping[str, Any]) -> list[str]:
    """Return what an operator needs of a failed result: its message, and the end of the error output.

    A result under no_log arrives censored and nothing else of it is used. Module arguments are never printed.
    """
    if "censored" in result:
        return ["(hidden: the task handles a secret)"]
    lines = str(result.get("msg") or "").rstrip().splitlines()
    for key in ("stderr", "module_stderr"):
        shown = [line for line in tail(result.get(key)) if line not in lines]
        if shown:
            lines += ["error output:", *(f"  {line}" for line in shown)]
            break
    else:
        for key in ("stdout", "module_stdout"):
            if shown := tail(result.get(key)):
                lines += ["output:", *(f"  {line}" for line in shown)]
                break
    if result.get("rc") not in (None, 0):
        lines.append(f"exit status {result['rc']}")
    return lines or ["(the task gave no message)"]


def results_in(result: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield a result, and the results of its items when it was a loop."""
    yield result
    for item in result.get("results") or []:
        if isinstance(item, Mapping):
            yield item


def restarts_in(result: Mapping[str, Any], action: str, state: object, why: str) -> list[tuple[str, str, str]]:
    """Return (unit, action, why) of everything that a task restarted, reloaded or started.

    Args:
        result: the task's result.
        action: name of the module.
        state: the argument `state` of a service module.
        why: reason for what a service module did; the modules of this project bring their own.
    """
    found: list[tuple[str, str, str]] = []
    for one in results_in(result):
        for entry in one.get("restarts") or []:
            if isinstance(entry, Mapping):
                found.append(
                    (str(entry.get("unit", "?")), str(entry.get("action", "restart")), str(entry.get("why", "")))
                )
        if action in _SERVICE_ACTIONS and state in _RESTARTING and one.get("changed") and one.get("name"):
            found.append((str(one["name"]), _RESTARTING[str(state)], why))
    return found


def at_once(restarts: Iterable[tuple[str, str, str, str]]) -> list[tuple[str, str, str, str]]:
    """Return one entry for all reasons that a dry run has found for the same.

    The run itself restarts once where it can: a new release starts with the settings that were written before.

    Args:
        restarts: (host, unit, action, why).
    """
    reasons: dict[tuple[str, str, str], dict[str, None]] = {}
    for host, unit, action, why in restarts:
        reasons.setdefault((host, unit, action), {})[why] = None
    return [(*what, "; ".join(filter(None, whys))) for what, whys in reasons.items()]


def host_rows(serves: Mapping[str, Mapping[str, Any]], failed: Iterable[str]) -> list[tuple[str, str, str]]:
    """Return the table of hosts and the release that each has; nothing for a single host.

    Args:
        serves: of each host that was asked, C(release) and a C(note) about it.
        failed: hosts of the deploy that failed; some perhaps before they were asked.
    """
    hosts = sorted({*serves, *failed})
    if len(hosts) < 2:
        return []
    unknown = {"release": "as before", "note": "failed before its release was looked at"}
    every = ((host, serves.get(host, unknown)) for host in hosts)
    return [("Host", "Release", ""), *((host, str(one["release"]), str(one["note"])) for host, one in every)]


def table(rows: Iterable[Iterable[object]], right: Iterable[int] = ()) -> list[str]:
    """Align rows in columns, two blanks apart; `right` are the columns whose cells end at the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    ends = set(right)
    return [
        "  ".join(
            cell.rjust(width) if index in ends else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def counted(number: int, noun: str) -> str:
    """Return "1 host", "2 hosts"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

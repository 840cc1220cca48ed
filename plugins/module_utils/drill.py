"""The fire drill's own judgement: which faults there are, what shows that one took effect, was noticed, is over.

Pure functions, for the controller and for the host; the host's side is the module `drill_fault`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plugins.module_utils.load_generator import Row

FAULTS: dict[str, str] = {
    "worker-kill": "kills one worker (SIGKILL)",
    "master-kill": "kills the master (SIGKILL)",
    "restart": "restarts the service (systemctl restart)",
    "worker-stop": "freezes one worker (SIGSTOP)",
    "workers-stop": "freezes all workers (SIGSTOP)",
    "master-stop": "freezes the master (SIGSTOP)",
    "service-kill": "kills every process of the service (SIGKILL)",
    "oom": "lowers the memory limit for a moment, until the kernel kills one worker",
}
RATE, SECONDS = 5, 120
#: So many good answers one after the other, and the site is back.
GOOD_ANSWERS = 3
STOPPED, GONE = frozenset("Tt"), frozenset("ZX")
#: Faults after which only a new start of the service counts.
_NEW_START = frozenset({"master-kill", "restart", "service-kill"})
_COLUMNS = (
    "took effect",
    "detected s",
    "back s",
    "requests",
    "refused",
    "failed",
    "longest wait s",
    "verdict",
)


@dataclass(frozen=True)
class Process:
    """A process as /proc shows it; `started` tells it from a later one with the same number (ticks since boot)."""

    pid: int
    parent: int
    state: str
    started: int


@dataclass(frozen=True)
class Seen:
    """The service at one moment.

    Attributes:
        invocation: systemd's id of this start; empty while it does not run.
        main: number of its main process, 0 without one.
        processes: all processes of its control group that live, by number.
        oom_kills: how many of them the kernel has killed for want of memory.
    """

    invocation: str = ""
    main: int = 0
    processes: Mapping[int, Process] = field(default_factory=dict)
    oom_kills: int = 0

    @property
    def workers(self) -> list[Process]:
        """The children of the main process, the oldest first."""
        return sorted((one for one in self.processes.values() if one.parent == self.main), key=lambda one: one.started)

    def finds(self, process: Process) -> Process | None:
        """Return the same process as it is now; None when it is gone."""
        now = self.processes.get(process.pid)
        return now if now is not None and now.started == process.started else None


def parse_stat(text: str) -> Process:
    """Read /proc/PID/stat (proc(5)): the second field is a name in brackets that may hold blanks and brackets."""
    number, _, rest = text.partition(" ")
    fields = rest.rpartition(")")[2].split()
    return Process(int(number), int(fields[1]), fields[0], int(fields[19]))


def fault_names(value: object = None) -> list[str]:
    """Return the faults that a setting asks for: all for nothing, a list, or names with commas between them.

    Raises:
        ValueError: one is not known, is there twice, or there is none; names those that are known.
    """
    names = list(FAULTS) if value is None else value
    if isinstance(names, str):
        names = [name.strip() for name in names.split(",")]
    if not isinstance(names, list) or not names or len({str(name) for name in names}) < len(names):
        raise ValueError(f"must be one or more of {', '.join(FAULTS)}, each once")
    if unknown := [str(name) for name in names if str(name) not in FAULTS]:
        raise ValueError(f"no such fault: {', '.join(unknown)}; there are {', '.join(FAULTS)}")
    return [str(name) for name in names]


def are_faults(value: object) -> bool:
    """Tell whether a setting names faults; see `fault_names`."""
    try:
        return value is not None and bool(fault_names(value))
    except ValueError:
        return False


def victims_of(fault: str, seen: Seen) -> list[Process]:
    """Return the processes that a fault hits."""
    main = [one for one in seen.processes.values() if one.pid == seen.main]
    return {
        "worker-kill": seen.workers[:1],
        "worker-stop": seen.workers[:1],
        "oom": seen.workers[:1],
        "workers-stop": seen.workers,
        "master-kill": main,
        "master-stop": main,
        "service-kill": list(seen.processes.values()),
    }.get(fault, [])


def evidence(fault: str, before: Seen, now: Seen) -> str:
    """Return what shows that the fault took effect; empty as long as nothing does."""
    victims = victims_of(fault, before)
    states = [found.state if (found := now.finds(victim)) else "" for victim in victims]
    pids = f"pid {victims[0].pid}" if len(victims) == 1 else f"{len(victims)} processes"
    if fault == "restart":
        return "a new start of the service" if now.invocation not in ("", before.invocation) else ""
    if fault == "oom":
        grown = now.oom_kills > before.oom_kills
        return f"oom_kill of the unit went from {before.oom_kills} to {now.oom_kills}" if grown else ""
    if fault.endswith("-stop"):
        return f"{pids} in state T" if all(state in STOPPED for state in states) else ""
    return f"{pids} gone" if not any(states) else ""


def is_noticed(fault: str, before: Seen, now: Seen) -> bool:
    """Tell whether the fault, which took effect, was dealt with: the service newly started, or the victims replaced."""
    if now.invocation not in ("", before.invocation):
        return True
    left = [found for victim in victims_of(fault, before) if (found := now.finds(victim))]
    if fault in _NEW_START or (fault == "oom" and left):
        return False
    return not any(one.state in STOPPED for one in left) and is_whole(before, now)


def is_whole(before: Seen, now: Seen) -> bool:
    """Tell whether the service has its master and as many workers as before, and none is frozen."""
    frozen = any(one.state in STOPPED for one in now.processes.values())
    return now.main in now.processes and len(now.workers) >= len(before.workers) and not frozen


def back_at(rows: Sequence[Row], since: float, injected: float) -> float | None:
    """Return when the first of three good answers one after the other had come; None as long as there are none.

    Args:
        rows: the requests that have ended, in order.
        since: answers before this moment count for nothing.
        injected: when the fault was injected; requests before that count for nothing.
    """
    good = [row for row in rows if row.outcome == "ok" and row.due >= injected and row.ended >= since]
    for first, last in zip(good, good[GOOD_ANSWERS - 1 :], strict=False):
        if last.seq - first.seq == GOOD_ANSWERS - 1:
            return first.ended
    return None


def verdict(took_effect: bool, detected: float | None, back: float | None, whole: bool, lost: int) -> tuple[bool, str]:
    """Return whether the site recovered by itself, and that in words.

    Args:
        took_effect: whether the fault was seen.
        detected: seconds until it was dealt with, None for never.
        back: seconds until the site answered well, None for never.
        whole: whether master and workers were all there in the end.
        lost: requests without a good answer.
    """
    if not took_effect:
        return False, "NOT INJECTED: nothing shows an effect"
    if detected is None:
        return False, "NOT NOTICED: undone by the drill"
    if back is None:
        return False, "NOT BACK"
    if not whole:
        return False, "NOT WHOLE: workers are missing"
    return True, f"back, {lost} lost" if lost else "back, none lost"


def measured(ledger: Sequence[Row], injected: float) -> dict[str, Any]:
    """Return what the requests since a fault went through, those under way at that moment included."""
    rows = [row for row in ledger if row.ended >= injected]
    refused = sum(1 for row in rows if row.outcome == "refused")
    lost = sum(1 for row in rows if row.outcome != "ok")
    return {
        "requests": len(rows),
        "refused": refused,
        "failed": lost - refused,
        "outcomes": {name: sum(1 for row in rows if row.outcome == name) for name in {row.outcome for row in rows}},
        "longest_wait_seconds": round(max((row.waited for row in rows), default=0.0), 2),
    }


def cells(result: Mapping[str, Any]) -> list[str]:
    """Return a fault's line of the table, without its name."""

    def figure(name: str) -> str:
        value = result[name]
        return "-" if value is None else f"{value:.1f}"

    return [
        "yes" if result["took_effect"] else "no",
        figure("detected_seconds"),
        figure("back_seconds"),
        str(result["requests"]),
        str(result["refused"]),
        str(result["failed"]),
        figure("longest_wait_seconds"),
        str(result["verdict"]),
    ]


def lines(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Return the table of a drill: headings first, then each fault with its figures."""
    return [("fault", list(_COLUMNS)), *((str(result["fault"]), cells(result)) for result in results)]


def question(hosts: Sequence[str], faults: Sequence[str], rate: int, seconds: int, command: str) -> str:
    """Return what the drill would do, and the command that does it."""
    width = max(len(name) for name in faults)
    return "\n".join(
        [
            f"The drill breaks the live site of {', '.join(hosts)} on purpose, one fault after the other:",
            *(f"  {name:<{width}}  {FAULTS[name]}" for name in faults),
            f"It asks the site {rate} times a second meanwhile. A fault that is not dealt with within {seconds} s is",
            "undone; if this computer is lost, a timer on the host undoes it. Visitors may notice.",
            f"To do it: {command}",
        ]
    )

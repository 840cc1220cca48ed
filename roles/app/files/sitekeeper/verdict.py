"""Every decision of the guards, as pure functions: no file, no clock, no process is touched here."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

MIB = 1024**2
#: Of the kernel's limit, what all processes together may use: the rest is for pages that belong to nobody.
PLANNED_PART = 0.9
#: An app that needs more than its share just to be there may still grow by so much before it retires.
LEAST_GROWTH = 32 * MIB
#: A worker that serves and does not grow still goes up and down by so much.
NOISE = 4 * MIB
#: Above so many times its share a worker takes no more requests while it waits for its turn to retire.
PAUSE_FACTOR = 1.25
LONGEST_PAUSE_SECONDS = 60.0


class Waits(enum.Enum):
    """What a thread waits for, as far as the kernel can tell."""

    RUNNING = "running"
    LOCK = "a lock, without a time limit"
    TIME = "a moment that will come"
    OUTSIDE = "somebody outside: a socket, a file, a process"


#: System call numbers (from the kernel's unistd.h) of futex and of the two sleeps.
FUTEX = {"x86_64": 202, "aarch64": 98}
SLEEPS = {"x86_64": (35, 230), "aarch64": (101, 115)}


def waits_for(line: str, machine: str) -> Waits:
    """Read one line of ``/proc/PID/task/TID/syscall`` (proc(5)).

    A lock that is taken with a time limit is a futex call with an address of that limit in its fourth argument. On a
    processor whose numbers are not known here nothing is ever called a lock.
    """
    words = line.split()
    if not words or words[0] in ("running", "-1"):
        return Waits.RUNNING
    number = int(words[0])
    if number == FUTEX.get(machine) and len(words) > 4:
        return Waits.LOCK if int(words[4], 16) == 0 else Waits.TIME
    return Waits.TIME if number in SLEEPS.get(machine, ()) else Waits.OUTSIDE


@dataclass(frozen=True)
class ThreadFacts:
    """One thread of a worker, as the guard has seen it over a while. All times are seconds."""

    request_age: float | None
    """How long its request is in flight; None for a thread without one."""
    answering: bool
    """The app has begun its answer: it streams, and may wait for its next event as long as it likes."""
    still: float
    """How long it has not moved: no processor time, no other line of Python."""
    waits: Waits


def is_stuck(one: ThreadFacts, others: Iterable[ThreadFacts], hang_seconds: float, limit_seconds: float) -> bool:
    """Tell whether a request will never end, or is not worth waiting for.

    It is a deadlock when it waits for a lock without a time limit, and nobody is there who could let it go: no thread
    that works or waits for the outside, and has done so since before. A slow upstream, a sleep, a long computation and
    a request whose helpers are at work are none of that; they only meet the long limit, and only without moving.
    """
    if one.request_age is None or one.answering:
        return False
    if one.still >= limit_seconds:
        return True
    if one.waits is not Waits.LOCK or one.still < hang_seconds:
        return False
    return not any(could_help(other, one) for other in others)


def could_help(other: ThreadFacts, one: ThreadFacts) -> bool:
    """Tell whether another thread may be what a waiting one waits for."""
    if other.waits is Waits.LOCK and other.still >= one.still / 2:
        return False
    # A request that came after the wait began holds nothing that is waited for.
    return other.request_age is None or other.request_age >= one.still


def planned(limit: int | None, master: int) -> int | None:
    """Return the bytes that all workers together may use; None where there is no limit."""
    return None if limit is None else max(0, int(limit * PLANNED_PART) - master)


def share(limit: int | None, master: int, workers: int) -> int | None:
    """Return the bytes that each worker may use; None where there is no limit."""
    together = planned(limit, master)
    return None if together is None else together // workers


def allowed(portion: int | None, at_boot: int) -> int | None:
    """Return the bytes at which a worker retires: its share, or a little more than it had when it came up."""
    return None if portion is None else max(portion, at_boot + LEAST_GROWTH)


def is_over(memory: int, may: int | None) -> bool:
    """Tell whether a worker should be replaced."""
    return may is not None and memory > may


def is_far_over(memory: int, may: int | None) -> bool:
    """Tell whether a worker should take no more requests until it is replaced."""
    return may is not None and memory > may * PAUSE_FACTOR


def takes_the_rest(memory: int, before: int, together: int, planned_bytes: int | None) -> bool:
    """Tell whether a worker has grown, since another one began to leave, into what little is left beside that one."""
    return is_over(together, planned_bytes) and memory > before + NOISE


def boot_pause(failures: int) -> float:
    """Return the seconds to wait before another worker is started, after so many that did not boot."""
    return 0.0 if failures < 2 else min(LONGEST_PAUSE_SECONDS, float(2 ** min(failures - 2, 10)))


@dataclass(frozen=True)
class Pressure:
    """The service's memory at one moment."""

    anon: int
    """Bytes that the kernel cannot drop: not the page cache, whose reclaim harms nobody."""
    high: int | None
    events: int
    """How often the kernel has slowed a process down because of ``memory.high``."""


def is_throttled(looks: Sequence[Pressure]) -> bool:
    """Tell whether the kernel has slowed the service down between all of these moments."""
    if len(looks) < 2 or any(look.high is None or look.anon < look.high * PLANNED_PART for look in looks):
        return False
    return all(later.events > earlier.events for earlier, later in pairwise(looks))


@dataclass(frozen=True)
class Progress:
    """What the watchdog knows about the last interval."""

    probe_answered: bool
    requests: int
    """Requests that were answered since the last look."""
    excused: bool
    """A worker's guard says: all threads busy, none of them stuck."""
    repaired: bool
    """A worker was replaced a moment ago and is coming up."""
    throttled: bool


def is_alive(seen: Progress) -> bool:
    """Tell whether systemd should hear that the service is alive: by real HTTP progress, not by the master's pulse."""
    if seen.probe_answered:
        return True
    if seen.throttled:
        return False
    return seen.requests > 0 or seen.excused or seen.repaired


def largest(memory: Mapping[int, int]) -> int | None:
    """Return the process that uses the most memory."""
    return max(memory, key=lambda pid: memory[pid], default=None)

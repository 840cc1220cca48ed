"""One fault at a time on the bench's machine, under visitors from outside who come at a steady rate."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from lab import ssh
from plugins.module_utils.drill import Seen, back_at, evidence, is_noticed, is_whole, victims_of
from plugins.module_utils.load_generator import Ask, Load, Row
from tools.bench_part import ROOT, BenchError
from tools.bench_site import MAX_MIB, THREADS, UNIT, WORKERS, Site, poll

#: What an emulated processor serves beside everything else.
RATE = 4.0
STREAM, PAGE = "/api/hero", "/"
#: Who is just being served when it happens: pages, and requests that take half a second and are never sent twice.
CROWD, POSTS, POST_PATH = 10, 2, "/faults/slow?seconds=0.5"
CROWD_SECONDS = 0.25
LEAD_SECONDS, LEAK_VISITORS, LEAK_TIMES = 60.0, 4, 5
#: A fault that is not over by then is not over at all.
GIVE_UP_SECONDS, LONGEST_SECONDS = 240.0, 3000.0
#: All has to stay well for so long.
CALM_SECONDS = 3.0


class Visitors:
    """A steady stream, and crowds; all their rows are on the clock of the stream."""

    def __init__(self, url: str, rate: float = RATE) -> None:
        self.url, self.steady = url, Load(Ask(url, path=STREAM), rate=rate, seconds=LONGEST_SECONDS)
        self._crowds: list[tuple[str, float, Load]] = []

    def __enter__(self) -> Visitors:
        """Begin, and wait until they are answered. Raises BenchError."""
        self.steady.__enter__()
        if not poll(lambda: self.back(0.0, 0.0) is not None, LEAD_SECONDS):
            self.steady.stop()
            raise BenchError("visitors are not answered, before anything was done")
        return self

    def __exit__(self, *_error: object) -> None:
        """Stop."""
        self.stop()

    def now(self) -> float:
        """Return the seconds since the stream began."""
        return self.steady.now()

    def back(self, since: float, injected: float) -> float | None:
        """Return when the stream was served again; see `plugins.module_utils.drill.back_at`."""
        return back_at(self.steady.so_far().rows, since, injected)

    def crowd(self, count: int, method: str, path: str) -> Load:
        """Let some come at once; wait until all have asked."""
        load = Load(Ask(self.url, path=path, method=method), rate=count / CROWD_SECONDS, seconds=CROWD_SECONDS)
        offset = self.now()
        load.__enter__()
        self._crowds.append((method, offset, load))
        load.wait(LEAD_SECONDS)
        return load

    def stop(self) -> list[tuple[str, Row]]:
        """Send nothing more, and return all requests with their methods."""
        rows = [("GET", row) for row in self.steady.stop().rows]
        for method, offset, load in self._crowds:
            rows += [(method, shifted(row, offset)) for row in load.stop().rows]
        return rows


def shifted(row: Row, seconds: float) -> Row:
    """Return a row on a clock that began so much earlier."""
    return replace(row, due=row.due + seconds, started=row.started + seconds, ended=row.ended + seconds)


def losses(requests: Sequence[tuple[str, Row]], begun: float, done: float) -> dict[str, Any]:
    """Return what became of the requests since a fault.

    Args:
        requests: method and ledger row of each.
        begun: when the fault began; what had ended before does not count.
        done: when it was done: what was sent until then was in flight.
    """
    since = [(method, row) for method, row in requests if row.ended >= begun]
    flying = [(method, row) for method, row in since if row.started <= done]
    later = [(method, row) for method, row in since if row.started > done]

    def count(rows: Sequence[tuple[str, Row]], failed: bool) -> dict[str, int]:
        return {
            name: sum(1 for method, row in rows if method == name and not (failed and row.outcome in ("ok", "refused")))
            for name in ("GET", "POST")
        }

    return {
        "requests": len(since),
        "refused": sum(1 for _, row in since if row.outcome == "refused"),
        "in_flight": count(flying, False),
        "failed_in_flight": count(flying, True),
        "failed_later": count(later, True),
        "longest_wait_seconds": round(max((row.waited for _, row in since), default=0.0), 2),
    }


@dataclass
class Watch:
    """What was seen of a fault. Times are the stream's."""

    fault: str
    before: Seen
    begun: float
    proof: str = ""
    since: float | None = None
    noticed: float | None = None
    back: float | None = None
    whole: float | None = None
    calm: float | None = field(default=None, repr=False)

    def look(self, now: Seen, visitors: Visitors) -> bool:
        """Take in a look at the service; tell whether all has been well for a while."""
        moment = visitors.now()
        if self.since is None and (now.invocation not in ("", self.before.invocation) or self._one_gone(now)):
            # Answers of what is about to go say nothing.
            self.since = moment
        if self.fault == "hang":
            if not any(now.finds(one) for one in self.before.workers):
                self.proof = self.proof or "all workers replaced"
                self.noticed = self.noticed or moment
        else:
            self.proof = self.proof or evidence(self.fault, self.before, now)
            if self.proof and self.noticed is None and is_noticed(self.fault, self.before, now):
                self.noticed = moment
        self.back = visitors.back(self.since or self.begun, self.begun)
        if self.noticed is None or self.back is None or not is_whole(self.before, now):
            self.whole = self.calm = None
            return False
        self.whole = self.calm = self.calm or moment
        return moment - self.calm >= CALM_SECONDS

    def _one_gone(self, now: Seen) -> bool:
        """Tell whether the first of the workers that all hang is gone; before, some may have been answered."""
        return self.fault == "hang" and not all(now.finds(one) for one in self.before.workers)

    def after(self, moment: float | None) -> float | None:
        """Return the seconds from the fault to a moment."""
        return None if moment is None else round(max(0.0, moment - self.begun), 2)


def command(fault: str, before: Seen, group: str) -> str:
    """Return the shell command that injects a fault of the drill; it prints a line at the moment when it does."""
    if fault == "restart":
        return f"echo now; systemctl restart --no-block {UNIT}"
    victims = [one.pid for one in victims_of(fault, before)]
    if fault == "oom":
        program = (ROOT / "plugins" / "module_utils" / "drill_memory.py").read_text(encoding="utf-8")
        program += f'\nprint("now", flush=True)\nShortage.of(Path("{group}"), {victims[0]}).make()\n'
        return f"python3 -c {shlex.quote(program)}"
    return f"echo now; kill -{'STOP' if fault.endswith('-stop') else 'KILL'} {' '.join(map(str, victims))}"


def inject(site: Site, fault: str, before: Seen, visitors: Visitors) -> tuple[float, float]:
    """Do it; return when it began and when it was done."""
    if fault == "hang":
        begun = visitors.now()
        # Theirs alone: nobody promised them an answer, so they are in no ledger.
        load = Load(Ask(site.url, path="/faults/hang", method="POST"), rate=1000, seconds=WORKERS * THREADS / 1000)
        load.__enter__()
        load.wait(LEAD_SECONDS)
        return begun, visitors.now()
    visitors.crowd(CROWD, "GET", PAGE)
    visitors.crowd(POSTS, "POST", POST_PATH)
    moments = [visitors.now() for _ in site.shell.lines(command(fault, before, site.group))]
    return moments[0], visitors.now()


def fault_trial(site: Site, fault: str) -> dict[str, Any]:
    """Inject one fault and watch until all is well again. Raises BenchError."""
    site.wait_well()
    hangs = site.exits()["hang"] if fault == "hang" else 0
    with site.inside() as inside, Visitors(site.url) as visitors:
        before = site.look()
        begun, done = inject(site, fault, before, visitors)
        watch = Watch(fault, before, begun)
        poll(lambda: watch.look(site.look(), visitors), GIVE_UP_SECONDS)
        requests = visitors.stop()
    found = losses(requests, begun, done)
    found["refused"] += inside.get("refused", 0)
    if fault == "hang":
        ended = site.exits()["hang"] - hangs
        watch.proof = f"{ended} workers ended for a hang" if ended >= WORKERS else ""
    return {
        "evidence": watch.proof,
        "back_seconds": watch.after(watch.back),
        "whole_seconds": watch.after(watch.whole),
        **found,
    }


def leak_trial(site: Site) -> dict[str, Any]:
    """Leak a megabyte with each request, five times the limit in all. Raises BenchError."""
    site.wait_well()
    site.look()
    exits, events = site.exits()["memory"], site.events()
    asks = Ask(site.url, path="/faults/leak?mb=1", method="POST", timeout=120)
    count = LEAK_TIMES * MAX_MIB

    def ask(_: int) -> Row:
        offset = visitors.now()
        with Load(asks, rate=1, seconds=1) as one:
            one.wait(LEAD_SECONDS)
        return shifted(one.stop().rows[0], offset)

    with site.inside() as inside, Visitors(site.url, rate=1) as visitors:
        begun = visitors.now()
        # Each waits for an answer before asking again: an emulated processor cannot promise a rate.
        with ThreadPoolExecutor(LEAK_VISITORS) as pool:
            leaks = [("POST", row) for row in pool.map(ask, range(count))]
        watched = visitors.now()
        requests = visitors.stop()
    grown = {name: value - events[name] for name, value in site.events().items()}
    retired = site.exits()["memory"] - exits
    found = losses([*requests, *leaks], begun, begun)
    found["refused"] += inside.get("refused", 0)
    leaked = sum(row.outcome == "ok" for _, row in leaks)
    return {
        "evidence": f"{leaked} MB leaked, {retired} workers retired" if retired and leaked == count else "",
        "back_seconds": None,
        "whole_seconds": None,
        **found,
        "seconds": round(watched - begun),
        "memory_high_events": grown["high"],
        "oom_kills": grown["oom_kill"],
    }


def reboot_trial(site: Site) -> dict[str, Any]:
    """Reboot the machine; its own boot is over when a login greets. Raises BenchError."""
    site.wait_well()
    port = site.machine.access().port
    before = site.machine.boot_id()
    with Visitors(site.url) as visitors:
        # Not to its end: the shell goes with the machine.
        next(site.shell.lines("echo now; systemctl reboot --no-block"))
        begun = visitors.now()
        gone = poll(lambda: not ssh.answers(port, timeout=1), GIVE_UP_SECONDS)
        away = visitors.now()
        greets = gone and poll(lambda: ssh.answers(port, timeout=1), GIVE_UP_SECONDS)
        booted = visitors.now()
        poll(lambda: visitors.back(away, begun) is not None, GIVE_UP_SECONDS)
        back = visitors.back(away, begun)
        found = losses(visitors.stop(), begun, begun)
    site.reconnect()
    boot_id = site.machine.boot_id()
    return {
        "evidence": "another boot id" if greets and boot_id not in ("", before) else "",
        "back_seconds": None if back is None else round(back - begun, 2),
        "whole_seconds": None,
        **found,
        "machine_boot_seconds": round(booted - begun, 2),
    }


def trial(site: Site, fault: str) -> dict[str, Any]:
    """Do one fault; return what was measured. Raises BenchError."""
    began = time.monotonic()
    found = {"leak": leak_trial, "reboot": reboot_trial}.get(fault, lambda one: fault_trial(one, fault))(site)
    return {**found, "trial_seconds": round(time.monotonic() - began)}

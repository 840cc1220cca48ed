"""Let the kernel kill one process of a service for want of memory, and no other one: the drill's fault `oom`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

#: A quarter of the victim less at each turn.
TURNS, TURN_SECONDS = 24, 0.05
#: A process with this value is never chosen (proc(5), oom_score_adj).
SPARED = "-1000"
#: What the kernel cannot take back from a service that does not swap (memory.stat of cgroup-v2).
_KEPT = ("anon", "shmem", "kernel_stack", "pagetables", "sec_pagetables", "percpu", "sock", "slab_unreclaimable")


def text_of(path: Path) -> str:
    """Return the text of a file, empty when it is not there or has gone with its process."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def table_of(text: str) -> dict[str, int]:
    """Return the numbers of lines such as "anon 4096" or "RssAnon:   4 kB"."""
    words = (line.replace(":", " ").split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in words if len(pair) >= 2 and pair[1].isdigit()}


def unreclaimable(memory_stat: str) -> int:
    """Return the bytes of a control group that the kernel cannot take back, from its memory.stat."""
    found = table_of(memory_stat)
    return sum(found.get(name, 0) for name in _KEPT)


def oom_kills(group: Path) -> int:
    """Return how many processes of a control group the kernel has killed for want of memory."""
    return table_of(text_of(group / "memory.events")).get("oom_kill", 0)


@dataclass(frozen=True)
class Shortage:
    """What a shortage of memory changes, as it was before.

    Attributes:
        group: the service's control group.
        victim: the process to be killed.
        limit: memory.max, in bytes or "max".
        scores: oom_score_adj of each process of the group.
    """

    group: Path
    victim: int
    limit: str
    scores: Mapping[int, str]

    @classmethod
    def of(cls, group: Path, victim: int) -> Shortage:
        """Look at a control group."""
        pids = [int(pid) for pid in text_of(group / "cgroup.procs").split()]
        scores = {pid: text_of(score_file(pid)).strip() for pid in pids}
        return cls(group, victim, text_of(group / "memory.max").strip(), scores)

    def undoing(self) -> str:
        """Return shell commands that put back limit and scores; a process that came later gets the victim's score."""
        usual = self.scores.get(self.victim, "0")
        cases = "".join(f"{pid}) s={score};; " for pid, score in self.scores.items() if score != usual)
        each = f"case $p in {cases}*) s={usual};; esac; echo $s >/proc/$p/oom_score_adj"
        return f"echo {self.limit} >{self.group}/memory.max; for p in $(cat {self.group}/cgroup.procs); do {each}; done"

    def make(self) -> None:
        """Lower the limit a little each time until the kernel has killed the victim, and put it back at once.

        Straight to the kernel: through systemd it takes so long that the next workers run out of memory too, and
        systemd itself would wait for the kernel meanwhile. The others are spared, for the kernel chooses the next
        victim before it has the memory of the last one back. Raises OSError when the service has just gone.
        """
        before = oom_kills(self.group)
        own = table_of(text_of(Path(f"/proc/{self.victim}/smaps_rollup"))).get("Private_Dirty", 0) * 1024
        base, step = unreclaimable(text_of(self.group / "memory.stat")), max(64 * 1024, own // 4)
        with self._undone():
            for pid in self.scores:
                if pid != self.victim:
                    score_file(pid).write_text(SPARED, encoding="ascii")
            for turn in range(TURNS):
                # The kernel returns when there is room, or when it has killed for it.
                (self.group / "memory.max").write_text(f"{max(0, base - turn * step)}\n", encoding="ascii")
                if oom_kills(self.group) > before:
                    return
                time.sleep(TURN_SECONDS)

    @contextlib.contextmanager
    def _undone(self) -> Iterator[None]:
        """Put back the limit in any case, then the scores, the master's first: its next children have them from it."""
        try:
            yield
        finally:
            (self.group / "memory.max").write_text(f"{self.limit}\n", encoding="ascii")
            for pid, score in sorted(self.scores.items()):
                with contextlib.suppress(OSError):
                    score_file(pid).write_text(score, encoding="ascii")


def score_file(pid: int) -> Path:
    """Return the file with a process's oom_score_adj."""
    return Path(f"/proc/{pid}/oom_score_adj")

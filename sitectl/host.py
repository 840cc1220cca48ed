"""The host as the program sees it: where things lie, which clocks to trust, how to run a command."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Now:
    """A moment that a change of the wall clock cannot move."""

    uptime: float
    """Seconds since boot."""
    boot_id: str
    """Which boot: uptimes of two boots cannot be compared."""


@dataclass(frozen=True)
class Finished:
    """How a command ended. `code` is None when it could not run or ran out of time."""

    code: int | None
    output: str
    problem: str


@dataclass(frozen=True)
class Host:
    """Paths under one root directory ("/" except in tests), the clocks, and commands."""

    root: Path = Path("/")

    @property
    def settings_dir(self) -> Path:
        """One NAME.json per site."""
        return self.root / "etc/sitectl"

    @property
    def run_dir(self) -> Path:
        """Locks and holds: gone after a reboot, and never on a full disk."""
        return self.root / "run/sitectl"

    def state_file(self, name: str) -> Path:
        """What the monitor remembers between two checks of site `name`."""
        return self.root / "var/lib/sitectl" / name / "state.json"

    def hold_file(self, name: str) -> Path:
        """The file that tells the monitor not to restart site `name`."""
        return self.run_dir / f"{name}.hold"

    def lock_file(self, name: str) -> Path:
        """The file that is locked while site `name` is checked or restarted."""
        return self.run_dir / f"{name}.lock"

    def under_root(self, path: Path) -> Path:
        """Return an absolute `path` below this host's root."""
        return self.root / path.relative_to("/")

    def now(self) -> Now:
        """Return the present moment."""
        uptime = Path("/proc/uptime").read_text(encoding="ascii").split()[0]
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return Now(float(uptime), boot_id)

    def run(self, argv: list[str], timeout: float) -> Finished:
        """Run `argv` for at most `timeout` seconds, without a shell; never raises for what it did."""
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=max(timeout, 0.1),
                check=False,
                text=True,
                errors="replace",
                env={**os.environ, "LC_ALL": "C", "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": ""},
            )
        except subprocess.TimeoutExpired:
            return Finished(None, "", f"{argv[0]} {argv[1]} did not finish within {timeout:.0f} s")
        except OSError as error:
            return Finished(None, "", f"cannot run {argv[0]}: {error.strerror}")
        lines = done.stderr.strip().splitlines()
        problem = "" if done.returncode == 0 else f"{argv[0]} {argv[1]}: {lines[0] if lines else done.returncode}"
        return Finished(done.returncode, done.stdout, problem)


class Deadline:
    """A point in time that several steps share; it does not move when the wall clock does."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self, most: float | None = None) -> float:
        """Return the seconds left, never below 0 and never above `most`."""
        left = max(0.0, self._end - time.monotonic())
        return left if most is None else min(left, most)

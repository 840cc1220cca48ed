"""Where the lab keeps its files."""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError, UsageError
from lab.progress import say

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?")


def check_name(name: str, what: str = "machine") -> str:
    """Return `name` if it is usable as a host name and as a directory name, else raise UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is not a usable {what} name: use up to 42 lower case letters, digits and dashes.")
    return name


@dataclass(frozen=True)
class Home:
    """The directory of one lab; two labs with different homes know nothing of each other."""

    root: Path

    @classmethod
    def from_environment(cls) -> Home:
        """LAB_HOME, or sitekeeper-lab under XDG_CACHE_HOME, or under ~/.cache."""
        explicit = os.environ.get("LAB_HOME")
        if explicit:
            return cls(Path(explicit).absolute())
        cache = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
        return cls(Path(cache).absolute() / "sitekeeper-lab")

    @property
    def images(self) -> Path:
        """Finished images, one directory per hash of what went in."""
        return self.root / "images"

    @property
    def packages(self) -> Path:
        """Downloaded .deb files, kept so that a rebuilt image downloads little."""
        return self.root / "packages"

    @property
    def keys(self) -> Path:
        """The key pair with which the lab logs in to every machine."""
        return self.root / "keys"

    def machine(self, name: str) -> Path:
        """State of the machine `name`; exists from the first moment of `up` to the end of `down`."""
        return self.root / "machines" / name

    def machine_names(self) -> list[str]:
        """Names with a state directory, half-made ones included."""
        machines = self.root / "machines"
        return sorted(path.name for path in machines.iterdir()) if machines.is_dir() else []

    @contextmanager
    def lock(self, name: str, waiting_for: str, timeout_seconds: float = 900) -> Iterator[None]:
        """Hold an exclusive lock between processes; says so when it has to wait.

        The kernel drops the lock when the holder dies, so a killed command never blocks the next one.
        """
        directory = self.root / "locks"
        directory.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + timeout_seconds
        with (directory / f"{name}.lock").open("w") as handle:
            told = False
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > deadline:
                        raise LabError(
                            f"Another lab command still holds {handle.name}. Find it with `fuser {handle.name}`."
                        ) from error
                    if not told:
                        say(f"waiting for {waiting_for} by another lab command")
                        told = True
                    time.sleep(0.2)
            yield

"""What a kind of machine has to know; everything else of a machine is the same for all kinds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from lab.definition import Record
from lab.image import Image


class Backend(Protocol):
    """Runs one machine, whose files are in a directory of its own."""

    @property
    def program(self) -> str:
        """The program that runs it, for messages."""

    @property
    def packages(self) -> Mapping[str, str]:
        """Program -> apt package of what this kind needs."""

    @property
    def pid(self) -> int | None:
        """The process that stands for the machine, or None."""

    @property
    def log(self) -> Path:
        """What the program itself said at the last start."""

    def create(self, image: Image, seed: bytes) -> None:
        """Make its disk from the image; `seed` is a tar archive of what makes it different from others."""

    def launch(self, record: Record, ports: Mapping[int, int], image: Image) -> dict[int, int]:
        """Start it with these forwarded ports (0: any free one) and return the ports it has.

        Raises HostError when it does not start.
        """

    def crashed_in_firmware(self) -> bool:
        """Tell whether its end says nothing about the guest, so that it may be started again."""

    def kill(self) -> None:
        """End it as a power cut does; raise LabError when it cannot be ended."""

    def discard(self) -> None:
        """Take away what it has outside of its directory, and in it what only root can remove."""


def marked_processes(mark: Path, program: bytes, proc: Path = Path("/proc")) -> list[int]:
    """Return the processes of a program with `mark` among their words.

    The process table is asked, not a recorded number: it cannot be out of date, cannot name another process after a
    reboot of this computer, and finds a process whose starter was killed half-way.
    """
    found = []
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            argv = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # the process ended meanwhile, or it is hidden from us
        if program in argv[0] and os.fsencode(mark) in argv:
            found.append(int(entry.name))
    return found

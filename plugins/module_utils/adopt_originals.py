"""The originals of a host that is being adopted: what is kept of them, and how they are put back. Runs as root."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ansible.module_utils.adopt_cron import restored, retired
from ansible.module_utils.adopt_host import Process, Run
from ansible.module_utils.adopt_plan import command_of, crontab


def write(path: Path, content: bytes, like: Path | None = None) -> None:
    """Write a file beside its target, with the owner and mode of another one (or 0600), and rename it.

    The name begins with a dot: cron reads no such file.
    """
    fresh = path.with_name(f".{path.name}.sitekeeper")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(content)
        if like is not None and like.exists():
            about = like.stat()
            os.fchown(out.fileno(), about.st_uid, about.st_gid)
            os.fchmod(out.fileno(), about.st_mode & 0o7777)
        out.flush()
        os.fsync(out.fileno())
    fresh.rename(path)


def flat(path: str) -> str:
    """Return a path as the name of one file; a % in a path is not foreseen."""
    return path.strip("/").replace("/", "%")


def unused(path: Path) -> Path:
    """Return a path of which nothing is there yet: this one, or with a number at its end."""
    numbered = (path.with_name(f"{path.name}.{number}") for number in itertools.count(2))
    return next(one for one in itertools.chain([path], numbered) if not one.exists())


def remembered(about: dict[str, Any]) -> Process:
    """Return a process as it was written down."""
    return Process(**{**about, **{name: tuple(about[name]) for name in ("argv", "groups", "outputs", "ignores")}})


def start_again(process: Process) -> None:
    """Start a process as it was started before: command, directory, user, environment, output."""

    def as_before() -> None:
        # Here the process has its user already: root could be led astray by a link in the place of a log.
        for number, path in zip((1, 2), process.outputs, strict=True):
            if path:
                with contextlib.suppress(OSError):
                    os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644), number)
        for one in process.ignores:
            signal.signal(one, signal.SIG_IGN)

    subprocess.Popen(
        process.argv,
        executable=command_of(process) or process.program,
        cwd=process.cwd,
        env=dict(process.environ),
        user=process.uid,
        group=process.gid,
        extra_groups=list(process.groups),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        # It takes no lock that another thread could hold.
        preexec_fn=as_before,  # noqa: PLW1509
    )


class Originals:
    """What is kept of one app.

    Args:
        kept: the directory; only root reads it.
        run: runs a command; returns status, output and error output.
        root: where /etc is.
    """

    def __init__(self, kept: Path, run: Run, root: Path = Path("/")) -> None:
        self.kept, self.run = kept, run
        self.units = root / "etc/systemd/system"

    def remember(self, **what: Any) -> None:
        """Add to the plan on disk, which holds the old environment: only root reads it."""
        plan = {**self.recalled(), **what}
        write(self.kept / "plan.json", json.dumps(plan, indent=2).encode("utf-8", "surrogateescape"))

    def recalled(self) -> dict[str, Any]:
        """Return the plan on disk; empty without one."""
        try:
            return json.loads((self.kept / "plan.json").read_text(encoding="utf-8", errors="surrogateescape"))
        except FileNotFoundError:
            return {}

    def make_room(self) -> None:
        """Make room for originals. What an earlier adoption kept is set aside: it may be the last copy of a row.

        A run that ended before its change-over has kept them already, and our unit may have taken the old one's place.
        """
        old = None
        if self.kept.exists() and self.recalled().get("status") != "saved":
            now = datetime.datetime.now().astimezone().strftime("%Y-%m-%dT%H%M%S")
            old = self.kept.rename(unused(self.kept.with_name(f"{self.kept.name}.{now}")))
        for path in (self.kept.parent, self.kept, *(self.kept / name for name in ("units", "crontabs", "databases"))):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for told in (old / "databases").glob("new%*") if old else ():
            # An operator was told where it lies.
            told.rename(self.kept / "databases" / told.name)

    def comment_out(self, lines: Sequence[tuple[str, str]], mark: str) -> None:
        """Comment out lines of crontabs, each given by its path and its text."""
        day = datetime.datetime.now().astimezone().date().isoformat()
        for name in sorted({path for path, _ in lines}):
            fresh = retired(crontab(Path(name)), [text for path, text in lines if path == name], mark, day)
            write(Path(name), fresh.encode("utf-8", "surrogateescape"), like=Path(name))

    def restore_units(self) -> None:
        """Put back the unit files that somebody had installed."""
        for name, state in self.recalled().get("units", {}).items():
            kept = self.kept / "units" / name
            if kept.exists():
                shutil.copy2(kept, self.units / name)
            if (drop_ins := kept.with_name(f"{name}.d")).is_dir():
                shutil.copytree(drop_ins, self.units / drop_ins.name, dirs_exist_ok=True)
            self.run(("systemctl", "daemon-reload"))
            if state == "enabled":
                self.run(("systemctl", "enable", name))

    def restore_lines(self, mark: str) -> None:
        """Bring back the lines of cron that were retired with a mark, whatever else was changed in the tables."""
        for kept in sorted((self.kept / "crontabs").glob("*")):
            path = Path("/" + kept.name.replace("%", "/"))
            if not path.is_file():
                # Somebody has removed the whole table meanwhile.
                continue
            before = crontab(path)
            if (fresh := restored(before, mark)) != before:
                write(path, fresh.encode("utf-8", "surrogateescape"), like=path)

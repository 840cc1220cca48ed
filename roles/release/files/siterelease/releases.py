"""The releases of one app on disk: which there are, which is current, which are good, and what was done with them."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

UNFINISHED, BAD, PROOF, LIVE = "UNFINISHED", "BAD", "proof.json", "live.json"
#: Proven, backed up, its hooks run: only the switch is missing, for which it waits while other hosts have theirs.
HELD = "held.json"
#: Bad releases are kept for a look, but not for ever.
KEPT_BAD = 2
KEPT_RECORDS = 500
#: Said of a switch that another one, or a rollback, came after.
CUT_OFF = "its run was cut off: release_after_switch may not have been run"


def now() -> str:
    """Return the time in UTC, for records."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Release:
    """One release as the operator sees it.

    Attributes:
        name: its id.
        state: ``current``, ``good`` (was live, may be gone back to), ``bad``, ``unproven`` or ``unfinished``.
        commit: what it was made from, empty when that is not known.
        created: when it was built, ISO 8601.
        live: when it last became current, seconds since 1970; 0 when it never was.
        why: why it is bad.
    """

    name: str
    state: str
    commit: str
    created: str
    live: float
    why: str


class Releases:
    """The release directories below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directory = root / "releases"

    def pointed(self, link: str) -> str:
        """Return the id that a link (``current``, ``next``, ``trial``) leads to, empty without one."""
        try:
            return (self.root / link).readlink().name
        except OSError:
            return ""

    def point(self, link: str, name: str) -> None:
        """Let a link lead to a release in one step; readers see the old one or the new one."""
        fresh = self.root / f".{link}.new"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(Path("releases") / name)
        fresh.rename(self.root / link)
        # The power may fail now: the old release or the new one, and never none.
        handle = os.open(self.root, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def path(self, name: str) -> Path:
        """Return the directory of a release."""
        return self.directory / name

    def complete(self, name: str) -> bool:
        """Tell whether a release is there and finished."""
        path = self.path(name)
        return bool(name) and (path / "release.json").exists() and not (path / UNFINISHED).exists()

    def note(self, name: str, file: str) -> dict[str, Any]:
        """Return one of the notes in a release's directory; empty when it is missing or damaged."""
        try:
            found = json.loads((self.path(name) / file).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def write(self, name: str, file: str, content: dict[str, Any]) -> None:
        """Write a note into a release's directory in one step."""
        replace(self.path(name) / file, json.dumps(content, indent=2) + "\n")

    def mark_bad(self, name: str, why: str) -> None:
        """Mark a release bad: on a full disk without the reason, for an empty file still finds room there."""
        try:
            self.write(name, BAD, {"at": now(), "why": why})
        except OSError:
            (self.path(name) / BAD).touch()

    def is_bad(self, name: str) -> bool:
        """Tell whether a release was marked bad; a mark that cannot be read counts."""
        return bool(name) and (self.path(name) / BAD).exists()

    def why_bad(self, name: str) -> str:
        """Return why a release was marked bad, empty when it was not."""
        return (self.look(name).why or "nobody could write down why") if self.is_bad(name) else ""

    def look(self, name: str) -> Release:
        """Describe one release."""
        about, bad, live = self.note(name, "release.json"), self.note(name, BAD), self.note(name, LIVE)
        state = "good" if live else "unproven"
        if not self.complete(name):
            state = "unfinished"
        elif self.is_bad(name):
            state = "bad"
        if self.pointed("current") == name:
            state = "current"
        return Release(
            name,
            state,
            str(about.get("commit") or ""),
            str(about.get("created") or ""),
            float(live.get("last") or 0),
            str(bad.get("why") or ""),
        )

    def all(self) -> list[Release]:
        """Describe all releases, the one that was live last first, then by their creation."""
        if not self.directory.is_dir():
            return []
        names = [path.name for path in self.directory.iterdir() if path.is_dir() and not path.is_symlink()]
        return sorted(map(self.look, names), key=lambda one: (one.live, one.created), reverse=True)

    def good(self) -> list[str]:
        """Return what a rollback may go to, the newest first."""
        return [one.name for one in self.all() if one.state == "good"]

    def prune(self, keep: int, never: Iterable[str]) -> list[str]:
        """Delete what is too old; return the names.

        Args:
            keep: how many good ones stay, the current one included; bad and unfinished ones are not counted.
            never: ids that stay in any case.
        """
        spared = {*never, self.pointed("current"), self.pointed("next")}
        releases = self.all()
        good = [one.name for one in releases if one.state in ("current", "good")]
        bad = [one.name for one in releases if one.state == "bad"]
        others = [one.name for one in releases if one.state in ("unproven", "unfinished")]
        gone = [name for name in (*good[max(keep, 1) :], *bad[KEPT_BAD:], *others) if name not in spared]
        for name in gone:
            # Marked first: half a directory must not pass for a release when the power fails.
            with contextlib.suppress(OSError):
                (self.path(name) / UNFINISHED).touch()
            shutil.rmtree(self.path(name), ignore_errors=True)
        return gone

    @property
    def journal(self) -> Path:
        """Where every deploy is recorded, one JSON object a line."""
        return self.root / "deploys.jsonl"

    def record(self, **facts: Any) -> dict[str, Any]:
        """Append what was done to the journal, and return it."""
        entry = {"at": now(), **facts}
        handle = os.open(self.root, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # The watch records while a deploy is at work.
            fcntl.flock(handle, fcntl.LOCK_EX)
            kept = [json.dumps(one) for one in self.records()][-KEPT_RECORDS + 1 :]
            replace(self.journal, "".join(f"{line}\n" for line in (*kept, json.dumps(entry))))
        finally:
            os.close(handle)
        return entry

    def records(self) -> list[dict[str, Any]]:
        """Return the journal, oldest first; a damaged line is left out."""
        found: list[dict[str, Any]] = []
        with contextlib.suppress(FileNotFoundError):
            for line in self.journal.read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError):
                    if isinstance(one := json.loads(line), dict):
                        found.append(one)
        return found

    def backup_before(self, name: str) -> str:
        """Return the backup that was made when a release went live last, empty for none."""
        if (owed := self.begun(name)).get("action") == "deploy":
            return str(owed.get("backup") or "")
        deploys = [one for one in self.records() if one.get("action") == "deploy" and one.get("release") == name]
        # A change of its settings that was refused is a deploy of it as well, and saved nothing.
        live = [one for one in deploys if one.get("result", "live") == "live"]
        return str(live[-1].get("backup") or "") if live else ""

    @property
    def unfinished(self) -> Path:
        """The record of a switch that was begun; there until it is in the journal."""
        return self.root / "begun.json"

    def begin(self, entry: Mapping[str, str]) -> None:
        """Note what is to be recorded of a switch, before it: the run may be killed, or the power fail."""
        replace(self.unfinished, json.dumps({"begun": now(), **entry}) + "\n")

    def begun(self, name: str) -> dict[str, str]:
        """Return what is to be recorded of the switch to a release, empty when it came to its end."""
        try:
            entry = json.loads(self.unfinished.read_text(encoding="utf-8"))
            begun, release = str(entry.pop("begun")), entry["release"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}
        # After a power cut a file that was deleted can be there again, beside the record.
        what = (entry.get("action"), release, "live")
        done = (one for one in self.records() if (one.get("action"), one.get("release"), one.get("result")) == what)
        return {} if release != name or any(str(one.get("at")) >= begun for one in done) else entry

    def end(self, entry: Mapping[str, str], **facts: Any) -> None:
        """Record how a switch ended; nothing is owed any more."""
        if entry:
            self.record(**entry, **facts)
        self.unfinished.unlink(missing_ok=True)


def replace(path: Path, text: str) -> None:
    """Write a file beside its place, bring it to the disk, and rename it."""
    beside = path.with_name(f".{path.name}.new")
    with beside.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    beside.chmod(0o644)
    beside.replace(path)


def digest(inputs: Iterable[Path]) -> str:
    """Return the SHA-256 over the content of files and of the ``*.py`` in directories; a missing one is part of it."""
    total = hashlib.sha256()
    for given in inputs:
        for path in sorted(given.glob("*.py")) if given.is_dir() else [given]:
            content = path.read_bytes() if path.exists() else b"missing"
            total.update(f"{path}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    return total.hexdigest()

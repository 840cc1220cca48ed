"""Keeps what each release went live with besides its code: environment, Gunicorn's settings, the units.

A deploy writes its settings before it is proven. When it is refused they must not stay on the disk: the running release
would start with them after its next crash or reboot.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from siterelease import host
from siterelease.settings import Settings


def directory(settings: Settings) -> Path:
    """Return where the snapshots lie; root's alone, for there are secrets in them."""
    return settings.state / settings.name / "settings"


def files(inputs: Collection[Path]) -> Iterator[Path]:
    """Return the files that are there of what an app starts with."""
    for given in inputs:
        yield from (path for path in sorted(given.glob("*.py") if given.is_dir() else [given]) if path.is_file())


def take(settings: Settings, name: str) -> None:
    """Keep the settings on disk as those of a release; a snapshot is there as a whole or not at all."""
    top = directory(settings)
    top.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside, old = top / f".{name}.new", top / f".{name}.old"
    for left in (beside, old):
        shutil.rmtree(left, ignore_errors=True)
    for given in settings.inputs:
        if given.is_dir():
            # Also an empty one: what is in it later was not there now.
            below(beside, given).mkdir(mode=0o700, parents=True)
    for path in files(settings.inputs):
        copy(path, below(beside, path))
    if (top / name).exists():
        (top / name).rename(old)
    beside.rename(top / name)
    shutil.rmtree(old, ignore_errors=True)


def has(settings: Settings, name: str) -> bool:
    """Tell whether there is a snapshot of a release."""
    return bool(name) and (directory(settings) / name).is_dir()


def put_back(settings: Settings, name: str, *, whole: bool = False) -> bool:
    """Make the settings on disk those of a release again; tell whether that changed anything.

    Args:
        settings: of the site.
        name: the release.
        whole: with the port, whichever is open; else only where that is open still.
    """
    if not has(settings, name):
        return False
    kept = directory(settings) / name
    inside = [Path("/") / path.relative_to(kept) for path in sorted(kept.rglob("*")) if path.is_file()]
    wrong = [path for path in inside if not path.is_file() or path.read_bytes() != below(kept, path).read_bytes()]
    wrong = [path for path in wrong if whole or path.suffix != ".socket" or is_open(settings, below(kept, path))]
    # Of directories that were kept only: an older version of this program knew fewer inputs.
    known = [given for given in settings.inputs if below(kept, given).is_dir()]
    surplus = [path for path in files(known) if path not in inside]
    for path in wrong:
        copy(below(kept, path), path)
    for path in surplus:
        path.unlink()
    if any(path.suffix in (".service", ".socket") for path in (*wrong, *surplus)):
        host.systemctl("daemon-reload", seconds=120)
    return bool(wrong or surplus)


def is_open(settings: Settings, unit: Path) -> bool:
    """Tell whether the port is still open as a socket unit says.

    One that was opened anew since belongs to all that was set up with it, such as a front that has the old port by now:
    after a reboot both would want that.
    """
    try:
        record = settings.socket_record.read_text(encoding="utf-8")
    except OSError:
        return False
    return record.split(maxsplit=1)[:1] == [hashlib.sha256(unit.read_bytes()).hexdigest()]


def prune(settings: Settings, names: Collection[str]) -> None:
    """Forget the settings of releases other than these."""
    if directory(settings).is_dir():
        for path in directory(settings).iterdir():
            if path.name not in names:
                shutil.rmtree(path, ignore_errors=True)


def below(top: Path, path: Path) -> Path:
    """Return where a file lies in a snapshot."""
    return top / path.relative_to("/")


def copy(source: Path, target: Path) -> None:
    """Copy a file with its mode and owner, in one step."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.sitekeeper")
    about = source.stat()
    # Created closed: it may be the app's environment.
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
        out.write(source.read_bytes())
        out.flush()
        os.fsync(out.fileno())
    if os.geteuid() == 0:
        os.chown(beside, about.st_uid, about.st_gid)
    beside.chmod(about.st_mode & 0o7777)
    beside.replace(target)

"""Saves the app's SQLite databases before a deploy, and restores them when somebody asks for it.

All of it is done as the app's user: root would leave files that the app cannot open (``-wal``, ``-shm``), and links in
a directory that the app can write to would lead root anywhere.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from siterelease.host import ReleaseError
from siterelease.releases import now
from siterelease.settings import Settings

KEPT_BACKUPS = 5
COPY_SECONDS = 900
#: https://www.sqlite.org/fileformat.html, section 1.3
MAGIC = b"SQLite format 3\0"
#: Runs as the app's user. Its argument: {"copies": [[from, to], ...], "counts": [path, ...]}; prints rows by table.
SCRIPT = """
import contextlib, json, os, sqlite3, sys
os.umask(0o077)
asked, rows = json.loads(sys.argv[1]), {}
def open_for_reading(path):
    # What a killed process has left in the middle must be rolled back first, and that takes the right to write.
    mode = "ro"
    with contextlib.suppress(FileNotFoundError):
        mode = "rw" if os.path.getsize(path + "-journal") else "ro"
    return contextlib.closing(sqlite3.connect("file:" + path + "?mode=" + mode, uri=True, timeout=30))
for source, target in asked["copies"]:
    beside = target + ".new"
    os.makedirs(os.path.dirname(beside), exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(beside)
    with open_for_reading(source) as live, contextlib.closing(sqlite3.connect(beside)) as copy:
        live.backup(copy)
        (verdict,) = copy.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            sys.exit(f"{source}: the copy is not sound: {verdict}")
        # A copy of a WAL database is one too; what was written must be in the file that is renamed.
        copy.execute("PRAGMA journal_mode=DELETE")
    handle = os.open(beside, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
    # A journal that stays would be rolled back into what comes from somewhere else.
    for left in ("-wal", "-shm", "-journal"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(target + left)
    os.rename(beside, target)
for path in asked["counts"]:
    with open_for_reading(path) as live:
        tables = live.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        rows[path] = {
            name: live.execute('SELECT count(*) FROM "' + name.replace('"', '""') + '"').fetchone()[0]
            for (name,) in tables.fetchall()
        }
print(json.dumps(rows))
"""


def found(settings: Settings) -> list[Path]:
    """Return the databases of the app: those that were named, or those that lie directly in its data directory.

    Raises:
        ReleaseError: a named one leads out of the data directory.
    """
    top = settings.data_dir.resolve()
    for name in settings.databases:
        if not (settings.data_dir / name).resolve().is_relative_to(top):
            raise ReleaseError(f"release_databases: {name} leads out of {settings.data_dir}")
    if settings.databases:
        return [path for name in settings.databases if (path := settings.data_dir / name).is_file()]
    if not settings.data_dir.is_dir():
        return []
    plain = (path for path in settings.data_dir.iterdir() if path.is_file() and not path.is_symlink())
    return sorted(path for path in plain if _starts_with_magic(path))


def missing(settings: Settings) -> list[str]:
    """Return which of the databases that were named are not there: misspelt, or of an app that has not written yet."""
    return [name for name in settings.databases if not (settings.data_dir / name).is_file()]


def _starts_with_magic(path: Path) -> bool:
    try:
        with path.open("rb") as content:
            return content.read(len(MAGIC)) == MAGIC
    except FileNotFoundError:
        # An app that serves goes on meanwhile: SQLite takes a -wal away with the last connection.
        return False


def work(settings: Settings, copies: list[tuple[Path, Path]], counts: list[Path]) -> dict[str, dict[str, int]]:
    """Copy databases and count rows, as the app's user.

    Raises:
        ReleaseError: a database cannot be read or a copy is not sound.
    """
    asked = {"copies": [[str(one), str(other)] for one, other in copies], "counts": [str(path) for path in counts]}
    user = pwd.getpwnam(settings.user)
    # Only root may become somebody else; anybody else is the user already (tests).
    become: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", SCRIPT, json.dumps(asked)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COPY_SECONDS,
            check=False,
            cwd="/",
            **(become if os.geteuid() == 0 else {}),
        )
    except subprocess.TimeoutExpired as error:
        raise ReleaseError(f"the database could not be copied within {COPY_SECONDS} s") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ReleaseError(f"the database cannot be copied: {last}. release_save_database: false leaves it out")
    counted: dict[str, dict[str, int]] = json.loads(done.stdout)
    return counted


def save(settings: Settings, why: str, spare: str) -> str:
    """Copy all databases to a new directory; return its name, empty when there is no database.

    Args:
        settings: of the site.
        why: goes into the name.
        spare: the backup that a rollback would restore: it stays, however many refused deploys each make one more.

    Raises:
        ReleaseError: it cannot be done.
    """
    sources = found(settings)
    if not sources:
        return ""
    user = pwd.getpwnam(settings.user)
    settings.backups.mkdir(mode=0o711, parents=True, exist_ok=True)
    name = f"{now().replace(':', '').replace('+0000', 'Z')}-{why}"
    directory = settings.backups / name
    need = sum(path.stat().st_size for path in sources)
    if shutil.disk_usage(settings.backups).free < 2 * need:
        raise ReleaseError(
            f"no room to save the database ({need // 1024**2} MiB) below {settings.backups}: free some, "
            "or set release_save_database: false"
        )
    directory.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(directory, user.pw_uid, user.pw_gid)
    # Not by their names alone: two may have one name, in directories of their own.
    places = {str(path.resolve().relative_to(settings.data_dir.resolve())): path for path in sources}
    copies = [(path, directory / place) for place, path in places.items()]
    try:
        counts = work(settings, copies, [copy for _, copy in copies])
        about = {"at": now(), "from": {place: str(path) for place, path in places.items()}, "rows": counts}
        # Root's own, beside the app's directory: what is restored, and where to, is not the app's to say.
        settings.backups.joinpath(f"{name}.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    except (ReleaseError, OSError):
        shutil.rmtree(directory, ignore_errors=True)
        settings.backups.joinpath(f"{name}.json").unlink(missing_ok=True)
        raise
    prune(settings, spare)
    return name


def prune(settings: Settings, spare: str) -> None:
    """Delete backups that are too old, and what a save left that a power cut ended.

    Args:
        settings: of the site.
        spare: the backup that stays in any case.
    """
    names = sorted(path.stem for path in settings.backups.glob("*.json"))
    for name in names[:-KEPT_BACKUPS]:
        if name != spare:
            shutil.rmtree(settings.backups / name, ignore_errors=True)
            settings.backups.joinpath(f"{name}.json").unlink()
    # Nobody can restore them; counted among the five they would push out good ones.
    for path in settings.backups.glob("????-??-??T??????Z-*"):
        if path.is_dir() and not settings.backups.joinpath(f"{path.name}.json").exists():
            shutil.rmtree(path, ignore_errors=True)


def about_backup(settings: Settings, name: str) -> dict[str, Any]:
    """Return what is known of a backup.

    Raises:
        ReleaseError: it is gone.
    """
    try:
        found_about: dict[str, Any] = json.loads((settings.backups / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReleaseError(f"the backup {name} is not there any more") from error
    return found_about


def lost_rows(settings: Settings, name: str) -> dict[str, int]:
    """Return by table how many rows the database has more than its backup.

    Raises:
        ReleaseError: one of them cannot be read.
    """
    about = about_backup(settings, name)
    live = work(settings, [], [Path(path) for path in about["from"].values()])
    more: dict[str, int] = {}
    for place, path in about["from"].items():
        saved = about["rows"].get(str(settings.backups / name / place), {})
        for table, count in live[path].items():
            more[f"{place}:{table}"] = count - saved.get(table, 0)
    return {table: count for table, count in more.items() if count > 0}


def restore(settings: Settings, name: str) -> None:
    """Put a backup in the place of the databases; the app must not run.

    Raises:
        ReleaseError: it cannot be done; each database is the old one or the new one.
    """
    about = about_backup(settings, name)
    copies = [(settings.backups / name / file, Path(path)) for file, path in about["from"].items()]
    work(settings, copies, [])

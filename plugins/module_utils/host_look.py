"""One look at files, packages and units of a host, so that what is right already costs no further call.

The module ``preflight`` looks, at the beginning of a run, and ``deploy_lock`` once more, when nobody else can deploy.
The action plugins ``config_files``, ``converged_unit``, ``site_apt``, ``site_copy`` and ``site_stat`` ask what was
seen before they call the host. What was not looked at, or is not as it should be, they leave to their modules as if
nobody had looked. With the lock the app itself is looked at too, see ``app_look``.
"""

from __future__ import annotations

import fnmatch
import functools
import grp
import hashlib
import hmac
import json
import os
import pwd
import re
import stat
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .app_look import AppLook, running

#: Larger files are programs; nobody compares their contents.
MOST_BYTES = 1024**2
DPKG_STATUS = Path("/var/lib/dpkg/status")
_TREE = "/**"
_PROPERTIES = (
    "Id",
    "LoadState",
    "ActiveState",
    "UnitFileState",
    "NeedDaemonReload",
    "ActiveEnterTimestampMonotonic",
)
_INSTALLED = re.compile(r"^Package: (\S+)\nStatus: \S+ ok installed$", re.MULTILINE)


def seal(key: str, content: bytes) -> str:
    """Return what tells whether two contents are the same, and nothing of a secret in them to who has not the key."""
    return hmac.new(key.encode(), content, hashlib.sha256).hexdigest()


def covers(pattern: str, path: str) -> bool:
    """Tell whether a look at a pattern sees a path that is there; ``/**`` at the end: a directory and all in it."""
    if pattern.endswith(_TREE):
        top = pattern[: -len(_TREE)]
        return path == top or path.startswith(f"{top}/")
    return pattern.count("/") == path.count("/") and fnmatch.fnmatchcase(path, pattern)


def look(patterns: Iterable[str], key: str) -> dict[str, dict[str, Any]]:
    """Return kind, owner, group, mode, time and sealed content of every path that a pattern matches."""
    found: dict[str, dict[str, Any]] = {}
    for pattern in patterns:
        if pattern.endswith(_TREE):
            top = pattern[: -len(_TREE)]
            found.update(_one(top, key))
            for directory, names, files in os.walk(top):
                for name in (*names, *files):
                    found.update(_one(f"{directory}/{name}", key))
        else:
            for path in Path("/").glob(pattern.lstrip("/")):
                found.update(_one(str(path), key))
    return found


@functools.cache
def _user(uid: int) -> str:
    return pwd.getpwuid(uid).pw_name


@functools.cache
def _group(gid: int) -> str:
    return grp.getgrgid(gid).gr_name


def _one(path: str, key: str) -> dict[str, dict[str, Any]]:
    """Return one path with what it is; nothing when it is not there."""
    try:
        about = os.lstat(path)
        kind = {stat.S_IFREG: "file", stat.S_IFDIR: "directory"}.get(stat.S_IFMT(about.st_mode), "other")
        content = ""
        if kind == "file" and about.st_size <= MOST_BYTES:
            content = seal(key, Path(path).read_bytes())
        owner, group = _user(about.st_uid), _group(about.st_gid)
    except FileNotFoundError:
        return {}
    except (OSError, KeyError):
        return {path: {"kind": "other"}}
    mode, changed = f"{stat.S_IMODE(about.st_mode):04o}", about.st_mtime
    return {path: {"kind": kind, "owner": owner, "group": group, "mode": mode, "content": content, "changed": changed}}


MACHINE = (Path("/proc/sys/kernel/random/boot_id"), Path("/etc/machine-id"))
#: What a run knows of a host that it has not looked at.
NOTHING: dict[str, Any] = {
    **{"machine": "", "patterns": [], "key": "", "paths": {}, "packages": [], "units": {}, "app": {}, "about": {}},
    "would_write": [],
}
#: What the modules are told that look.
OPTIONS: dict[str, dict[str, Any]] = {
    "look": {"type": "list", "elements": "str", "default": []},
    "look_units": {"type": "list", "elements": "str", "default": []},
    "look_app": {"type": "dict", "default": {}},
    "look_key": {"type": "str", "default": "", "no_log": True},
}


def everything(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a module adds to its result: ``seen``, or nothing without a pattern.

    Args:
        options: OPTIONS, and ``name``, the app's.
    """
    patterns, key, units, app = (options[name] for name in ("look", "look_key", "look_units", "look_app"))
    if not patterns:
        return {}
    whole = app.get("units") or ()
    app_look = AppLook({**app, "name": options["name"]} if app else {})
    found: dict[str, Any] = {"paths": look(patterns, key), "packages": installed(), "units": looked_up(units, whole)}
    return {"seen": {**found, "machine": machine(), "app": app_look.state(well=_all_active(found["units"], whole))}}


def app_again(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a module adds to its result that restarted an app: ``seen``, its units and how it runs now.

    Args:
        about: ``look_app`` of OPTIONS; nothing for no look.
    """
    if not about:
        return {}
    units = looked_up((), about["units"])
    return {"seen": {"units": units, "app": running(about, well=_all_active(units, about["units"]))}}


def _all_active(units: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> bool:
    """Tell whether an app may be asked: one that does not run would start by that, through its socket."""
    return all(units.get(name, {}).get("state", {}).get("ActiveState") == "active" for name in names)


def machine(files: Sequence[Path] = MACHINE) -> str:
    """Return what tells this machine from others, whatever names it has in an inventory.

    Containers share the boot id of their kernel, copies of a machine its machine-id: nothing shares both.
    """
    return " ".join(file.read_text(encoding="ascii").strip() for file in files if file.exists())


def looked_up(names: Sequence[str], whole: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Return state, start and last reading of each unit that systemd knows.

    Times are in seconds since the epoch, as those of files are.

    Args:
        names: of units, with wildcards or without.
        whole: names of units of which all properties are wanted.
    """
    shown = _shown([*names, "-p", ",".join(_PROPERTIES)]) if names else []
    shown += _shown(whole) if whole else []
    if not shown:
        return {}
    boot = time.time() - time.monotonic()
    (manager,) = _shown(["-p", "UnitsLoadTimestampMonotonic"]) or [{}]
    loaded_at = boot + int(manager.get("UnitsLoadTimestampMonotonic") or 0) / 1e6
    return {
        state.pop("Id"): {
            "active_since": boot + int(state.get("ActiveEnterTimestampMonotonic") or 0) / 1e6,
            "loaded_at": loaded_at,
            "state": state,
        }
        for state in shown
        if "Id" in state
    }


def _shown(words: Sequence[str]) -> list[dict[str, str]]:
    """Return what ``systemctl show`` says, one dictionary for each unit; none where there is no systemd."""
    try:
        done = subprocess.run(
            ["systemctl", "show", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=30,
            check=True,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.SubprocessError):
        return []
    blocks = done.stdout.decode("utf-8", "replace").strip().split("\n\n")
    return [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in blocks]


def installed(status: Path = DPKG_STATUS) -> list[str]:
    """Return the names of the packages that dpkg has installed; none where it cannot be told."""
    try:
        return _INSTALLED.findall(status.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return []


class Seen:
    """What a run knows of one host, kept in the run's own temporary directory, which nobody else can read."""

    @classmethod
    def of(cls, task_vars: Mapping[str, Any] | None) -> Seen:
        """Return what this run knows of the host of a task."""
        # Only a controller has it; the modules of a host read this file too.
        from ansible import constants  # noqa: PLC0415

        return cls(constants.DEFAULT_LOCAL_TMP, str((task_vars or {}).get("inventory_hostname", "")))

    def __init__(self, directory: str, host: str) -> None:
        self._file = Path(directory) / f"host-look-{hashlib.sha256(host.encode()).hexdigest()[:16]}.json"
        known: dict[str, Any]
        try:
            known = json.loads(self._file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            known = dict(NOTHING)
        #: See `machine`.
        self.machine: str = known["machine"]
        self.patterns: Sequence[str] = known["patterns"]
        self.key: str = known["key"]
        self.paths: dict[str, dict[str, Any]] = known["paths"]
        self.packages: Sequence[str] = known["packages"]
        self.units: dict[str, dict[str, Any]] = known["units"]
        #: See `app_look.AppLook`.
        self.app: dict[str, Any] = known["app"]
        #: What was asked of it, to be asked again.
        self.about: dict[str, Any] = known["about"]
        #: Files that this dry run would have written by now.
        self.would_write: Sequence[str] = known["would_write"]

    def keep(self, options: Mapping[str, Any], key: str, result: dict[str, Any]) -> dict[str, Any]:
        """Take what the host saw out of a module's result and keep it in place of what was known; return the rest.

        Args:
            options: the module's, of OPTIONS.
            key: that contents are sealed with.
            result: the module's.
        """
        if found := result.pop("seen", None):
            self.patterns, self.key, self.about = list(options.get("look") or []), key, options.get("look_app") or {}
            self.paths, self.packages, self.units = found["paths"], found["packages"], found["units"]
            self.machine, self.app = found["machine"], found["app"]
            self._write()
        return result

    def keep_app(self, result: dict[str, Any]) -> dict[str, Any]:
        """Take how the app runs now out of a module's result, see `app_again`; return the rest."""
        if found := result.pop("seen", None):
            self.units, self.app = {**self.units, **found["units"]}, found["app"]
            self._write()
        return result

    def _write(self) -> None:
        self._put(self._file, {name: getattr(self, name) for name in NOTHING})

    @staticmethod
    def _put(file: Path, known: Mapping[str, Any]) -> None:
        """Write it by rename: a run may work on a host in several processes."""
        fresh = file.with_name(f"{file.name}.{os.getpid()}")
        fresh.touch(mode=0o600)
        fresh.write_text(json.dumps(known), encoding="utf-8")
        fresh.replace(file)

    def forget(self, paths: Iterable[str] = ()) -> None:
        """Leave the paths that this run writes, and the app that it may have changed, to whoever asks next.

        The inventory's other apps on the same machine have to be asked for anew, with all that was seen for them but
        the packages: a run only ever adds some.
        """
        gone, self.app = set(paths), {}
        self.patterns = [pattern for pattern in self.patterns if not any(covers(pattern, path) for path in gone)]
        self._write()
        for other in self._file.parent.glob("host-look-*.json"):
            known = json.loads(other.read_text(encoding="utf-8"))
            if other != self._file and known["machine"] == self.machine:
                self._put(other, NOTHING | {name: known[name] for name in ("machine", "packages", "would_write")})

    def plan(self, paths: Iterable[str]) -> None:
        """Take note of files that a dry run would write: what a process reads would restart it later."""
        self.would_write = sorted({*self.would_write, *paths})
        self._write()

    def knows(self, path: str) -> bool:
        """Tell whether it was looked for."""
        return any(covers(pattern, path) for pattern in self.patterns)

    def exists(self, path: str) -> bool | None:
        """Tell whether a path was there; None when nobody looked."""
        return path in self.paths if self.knows(path) else None

    def holds(self, entry: Mapping[str, Any]) -> bool:
        """Tell whether a directory, or a file with its content, is as an entry of ``config_files`` wants it."""
        path = str(entry["path"])
        there = self.paths.get(path) if self.knows(path) else None
        if there is None:
            return False
        wanted = {"kind": "directory", "owner": entry.get("owner", "root"), "group": entry.get("group", "root")}
        wanted["mode"] = entry["mode"]
        if "content" in entry:
            content = entry["content"] if isinstance(entry["content"], bytes) else str(entry["content"]).encode()
            wanted |= {"kind": "file", "content": seal(self.key, content)}
        return all(there.get(name) == value for name, value in wanted.items())

    def newer(self, paths: Iterable[str], moment: float) -> list[str] | None:
        """Return which files were there and changed after a moment; None when one was not looked for or is a link."""
        found = []
        for path in paths:
            if not self.knows(path):
                return None
            if path in self.paths:
                if "changed" not in self.paths[path] or self.paths[path]["kind"] == "other":
                    return None
                if self.paths[path]["changed"] > moment:
                    found.append(path)
        return found

    def add_packages(self, names: Iterable[str]) -> None:
        """Take note of packages that the run has just installed: to ask apt for one again takes seconds."""
        self.packages = [*self.packages, *names]
        self._write()

    def has_packages(self, names: Iterable[str]) -> bool:
        """Tell whether all are installed; a name with a version or a wildcard is none that dpkg has."""
        return set(names) <= set(self.packages)

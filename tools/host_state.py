"""Says what a host is like, as JSON: everything that two runs of the site must leave equal. Runs on the host as root.

ssh HOST sudo python3 - NAME < tools/host_state.py
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

#: Everything in there is the same after equal runs; only the system writes the ones left out.
TREES = ("/etc", "/opt", "/usr/local")
LEFT_OUT = ("/etc/mtab", "/etc/ld.so.cache", "/etc/resolv.conf", "/etc/.updated", "/etc/.pwd.lock")
#: Where Ansible and our own modules put what they have not finished.
SCRATCH = ("/tmp/ansible*", "/var/tmp/ansible*", "/root/.ansible/tmp/*", "/home/*/.ansible/tmp/*")
UNIT_PROPERTIES = "Id,LoadState,ActiveState,UnitFileState,NeedDaemonReload"


def about(path: Path) -> str:
    """Return owner, mode and content of a file in short."""
    state = path.lstat()
    if path.is_symlink():
        return f"-> {path.readlink()}"
    content = hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else path.stat().st_mode >> 12
    return f"{state.st_uid}:{state.st_gid} {state.st_mode & 0o7777:o} {content}"


def files() -> dict[str, str]:
    """Return all files of the trees."""
    found = (path for tree in TREES for path in Path(tree).rglob("*"))
    kept = (path for path in found if str(path) not in LEFT_OUT and "__pycache__" not in path.parts)
    return {str(path): about(path) for path in sorted(kept) if path.is_symlink() or not path.is_dir()}


def is_finished(directory: Path) -> bool:
    """Tell whether a release is whole, as the deploy marks it."""
    return not (directory / "UNFINISHED").exists() and (directory / "release.json").exists()


def release(directory: Path) -> dict[str, object]:
    """Return what a release consists of: names and sizes of all files, and the code's content."""
    inside = (path for part in ("code", "venv") for path in (directory / part).rglob("*"))
    every = sorted(path for path in inside if "__pycache__" not in path.parts and not path.is_dir())
    code = hashlib.sha256()
    for path in every:
        if path.is_relative_to(directory / "code") and path.is_file() and not path.is_symlink():
            code.update(str(path).encode() + b"\0" + path.read_bytes())
    names = "\n".join(f"{path} {path.lstat().st_size}" for path in every)
    return {
        "code": code.hexdigest()[:16],
        "files": len(every),
        "names": hashlib.sha256(names.encode()).hexdigest()[:16],
    }


def stale_records() -> list[str]:
    """Return what runs with something older than what is on disk: `RECORD: FILE`."""
    found = []
    for record in sorted(Path("/run/sitekeeper").iterdir()):
        if record.suffix not in (".service", ".socket") or not record.is_file():
            continue
        for line in record.read_text().splitlines():
            digest, _, path = line.partition("  ")
            try:
                same = hashlib.sha256(Path(path).read_bytes()).hexdigest() == digest
            except OSError:
                same = False
            if not same:
                found.append(f"{record}: {path}")
    return found


def output(*command: str) -> str:
    """Return what a command prints, whatever its exit status."""
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout


def state(name: str) -> dict[str, object]:
    """Return the state of the host of an app."""
    root = Path("/srv") / name
    units = output("systemctl", "show", f"{name}.service", f"{name}.socket", "cron.service", "-p", UNIT_PROPERTIES)
    main = output("systemctl", "show", f"{name}.service", "-p", "MainPID", "--value").strip()
    return {
        "files": files(),
        "current": (root / "current").readlink().name,
        "runs": Path(f"/proc/{main}/cwd").resolve().relative_to(root / "releases").parts[0],
        "release": release((root / "current").resolve()),
        "releases": {path.name: is_finished(path) for path in sorted((root / "releases").iterdir())},
        "beside": sorted(path.name for path in root.iterdir()),
        "units": units.split("\n\n"),
        "failed": output("systemctl", "--failed", "--plain", "--no-legend").splitlines(),
        "stale": stale_records(),
        "scratch": sorted(str(path) for pattern in SCRATCH for path in Path("/").glob(pattern.lstrip("/"))),
    }


if __name__ == "__main__":
    print(json.dumps(state(sys.argv[1])))

"""A directory of wheels and source archives on the controller, from which a release is built without an index."""

from __future__ import annotations

from pathlib import Path

PACKAGES = ("*.whl", "*.tar.gz", "*.zip")


class Fault(Exception):
    """A wheelhouse cannot be used; the message is for the operator."""


def packages(directory: Path) -> list[str]:
    """Return the names of the files that pip and uv take for packages."""
    return sorted(path.name for pattern in PACKAGES for path in directory.glob(pattern))


def fault(directory: Path, gunicorn_version: str) -> str:
    """Return why a release cannot be built from this directory and what to run, or an empty string."""
    run = f"run: pip download -d {directory} -r requirements.txt gunicorn=={gunicorn_version}"
    if not directory.is_dir():
        return f"there is no directory {directory} on this machine; {run}"
    there = packages(directory)
    if not there:
        return f"{directory} holds no wheel; {run}"
    name = f"gunicorn-{gunicorn_version}"
    if not any(one.startswith(f"{name}-") or one in (f"{name}.tar.gz", f"{name}.zip") for one in there):
        return f"Gunicorn {gunicorn_version} is not in {directory}; {run}"
    return ""

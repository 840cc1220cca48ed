"""A tree of code, the same on the controller and on the host: what belongs to it, and its digest."""

from __future__ import annotations

import fnmatch
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path


def excluded(relative: str, patterns: Sequence[str]) -> bool:
    """Tell whether the path or one of its parts matches one of the shell patterns."""
    return any(fnmatch.fnmatch(text, pattern) for text in (relative, *Path(relative).parts) for pattern in patterns)


def tree(root: Path, patterns: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Yield relative name and path of each file and link below root, sorted, without what is excluded.

    Sockets, pipes and devices are no code: a running app may have left some.
    """
    for directory, names, files in os.walk(root):
        here = Path(directory)
        inside = here.relative_to(root)
        links = [name for name in names if (here / name).is_symlink()]
        names[:] = sorted(n for n in names if n not in links and not excluded(str(inside / n), patterns))
        for name in sorted([*files, *links]):
            path = here / name
            if not excluded(str(inside / name), patterns) and (path.is_symlink() or path.is_file()):
                yield str(inside / name), path


def digest(root: Path, patterns: Sequence[str] = (), shared: Sequence[str] = ()) -> str:
    """Return a SHA-256 over names, executable bits and contents, but not over times or owners.

    Args:
        root: the tree.
        patterns: shell patterns of what is left out wherever it lies.
        shared: paths from the root that are data: they change all the time and make no new release.
    """
    total = hashlib.sha256()
    for name, path in tree(root, patterns):
        if any(name == data or name.startswith(f"{data}/") for data in shared):
            continue
        content = str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
        kind = "l" if path.is_symlink() else "x" if os.access(path, os.X_OK) else "f"
        total.update(f"{kind} {name}\0".encode() + hashlib.sha256(content).digest())
    return total.hexdigest()

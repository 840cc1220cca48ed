"""Where the databases of an adopted app go, and that none takes the place of another."""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from ansible.module_utils.adopt_host import SKIPPED_DIRECTORIES, is_database, is_inside
from ansible.module_utils.adopt_wanted import Wanted
from ansible.module_utils.code_tree import excluded, tree


def place_of(path: str, directory: str, wanted: Wanted) -> str | None:
    """Return where a database goes; empty where the settings do not say, None for one that is no part of the app."""
    if path in wanted.placed:
        return str(Path(wanted.data_dir, wanted.placed[path]))
    if not is_inside(path, directory):
        return ""
    name = str(Path(path).relative_to(directory))
    if excluded(name, wanted.exclude):
        return None
    inside = any(is_inside(name, shared) for shared in wanted.shared)
    return str(Path(wanted.data_dir, name)) if inside else ""


def place_problems(databases: Mapping[str, str], directory: str, wanted: Wanted) -> list[str]:
    """Return what is wrong with the places of databases, each with what to do.

    Args:
        databases: each database and its place, as `place_of` says.
        directory: where the app lives.
        wanted: what the settings say.
    """
    told = []
    taken = {str(Path(place).relative_to(wanted.data_dir)) for place in databases.values() if place}
    for path in (path for path, place in databases.items() if not place):
        if is_inside(path, directory):
            name = str(Path(path).relative_to(directory))
            advice = "add it to app_shared_paths, or to app_exclude if it is none of the app's"
        else:
            name, free = path, free_name(Path(path), taken, directory)
            taken.add(free)
            advice = f"adopt_databases: {{{path}: {free}}}, and tell the app by app_environment"
        told.append(f"the database {name} has no place: {advice}")
    return told + [
        f"{one} and {other} would both go to {place}, and one of them would be lost: give the one outside of the code "
        "another place in adopt_databases, or name the one in the code in app_exclude if it is none of the app's"
        for place, one, other in collisions(databases, directory, wanted)
    ]


def links_away(directory: str, uid: int, exclude: Collection[str], databases: Collection[str]) -> dict[str, str]:
    """Return the links in an app's code that lead to what its user has elsewhere, such as uploads on a volume.

    A link is copied as it is, so what it leads to would not come along, and the new site may not write there.

    Args:
        directory: where the app lives; one at the root of the host has none of its own.
        uid: of the app's user. What is somebody else's the app only reads.
        exclude: what is no code, as ``app_exclude`` says.
        databases: those that were found; they have places of their own.
    """
    found = {}
    for name, path in tree(Path(directory), [*exclude, *SKIPPED_DIRECTORIES]) if directory not in ("", "/") else ():
        target = os.path.realpath(path)
        away = path.is_symlink() and path.exists() and not is_inside(target, os.path.realpath(directory))
        if away and Path(target).stat().st_uid == uid and target not in databases:
            found[name] = target
    return found


def free_name(path: Path, taken: set[str], directory: str) -> str:
    """Return a name for a database of elsewhere that neither another database nor a file of the code has."""
    numbered = (f"{path.stem}-{number}{path.suffix}" for number in itertools.count(2))
    names = itertools.chain([path.name, f"{path.parent.name}-{path.name}"], numbered)
    return next(name for name in names if name not in taken and not is_there(Path(directory, name)))


def is_there(path: Path) -> bool:
    """Tell whether something lies in a place of the code. A link is nothing: it is not taken along."""
    return path.exists() and not path.is_symlink()


def collisions(databases: Mapping[str, str], directory: str, wanted: Wanted) -> Iterator[tuple[str, str, str]]:
    """Yield each place that two files would have, or the one above it, and both files.

    Two databases in one place are copied over each other, and the way back would copy that one over both originals.
    """
    placed = [(place, path) for path, place in databases.items() if place]
    for (place, one), (second, other) in itertools.combinations(placed, 2):
        if is_inside(second, place) or is_inside(place, second):
            yield min(place, second, key=len), one, other
    for place, path in placed if wanted.source_type == "host_path" else ():
        name = str(Path(place).relative_to(wanted.data_dir))
        # A file that is shared follows its databases, so it would lie over one of them.
        file = Path(directory, name)
        shared = any(is_inside(name, top) or is_inside(top, name) for top in wanted.shared)
        if str(file) != path and shared and is_there(file) and not is_database(file):
            yield place, str(file), path

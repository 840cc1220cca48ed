"""The list of what is broken on purpose: `tools/mutations`, read, and held against the repository."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

#: A directory: `PLAN` says how they are tried, each other file lists those of one part of the project.
LIST, PLAN = "tools/mutations", "plan.yml"


class ListError(Exception):
    """The list cannot be used as it is; the message has all the reasons."""


@dataclass(frozen=True)
class Mutation:
    """One line to break.

    Attributes:
        name: what is wrong then, as a sentence.
        file: where, from the top of the repository.
        find: the text to replace; it stands there exactly once.
        replace: what it becomes.
        tests: what should notice it: paths for pytest.
        scenario: the Molecule scenario that would, with a machine; empty for none.
    """

    name: str
    file: str
    find: str
    replace: str
    tests: tuple[str, ...]
    scenario: str = ""


@dataclass(frozen=True)
class Plan:
    """The whole list. `ignored` are tests that judge the list itself: they are red for every mutation."""

    suite: tuple[str, ...]
    ignored: tuple[str, ...]
    tests_seconds: float
    suite_seconds: float
    scenario_seconds: float
    mutations: tuple[Mutation, ...]


TEXTS = ("name", "file", "find", "replace", "scenario")


def words_of(value: object) -> tuple[str, ...]:
    """Return a list of strings of the file as a tuple.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, list) or not all(isinstance(word, str) and word for word in value):
        raise TypeError(f"{value!r} is no list of strings")
    return tuple(value)


def mutation_of(entry: Mapping[str, Any]) -> Mutation:
    """Read one entry of the list.

    Raises:
        KeyError, TypeError: it lacks something, or has something unknown.
    """
    texts = {name: entry.get(name, "") if name == "scenario" else entry[name] for name in TEXTS}
    unknown = set(entry) - {*TEXTS, "tests"}
    wrong = [name for name, value in texts.items() if not isinstance(value, str)]
    if unknown or wrong:
        raise TypeError(f"unknown: {sorted(unknown)}, no text: {wrong}")
    return Mutation(tests=words_of(entry["tests"]), **texts)


def load(directory: Path) -> Plan:
    """Read the list.

    Raises:
        ListError: it is not readable, or an entry is not complete.
    """
    path = directory / PLAN
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        plan = Plan(
            suite=words_of(raw["suite"]),
            ignored=words_of(raw["ignored"]),
            tests_seconds=float(raw["seconds"]["tests"]),
            suite_seconds=float(raw["seconds"]["suite"]),
            scenario_seconds=float(raw["seconds"]["scenario"]),
            mutations=(),
        )
        mutations: list[Mutation] = []
        for path in sorted(set(directory.glob("*.yml")) - {directory / PLAN}):
            mutations += map(mutation_of, yaml.safe_load(path.read_text(encoding="utf-8")))
        return replace(plan, mutations=tuple(mutations))
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ListError(f"{path.name} cannot be read: {type(error).__name__}: {error}") from error


def without_effect(file: str, before: str, after: str) -> str:
    """Say why a changed text is no fair mutation; empty when it is one.

    A file that no program can read proves nothing about the tests: anything would notice. A change that the program
    does not see (in a comment, say) cannot be noticed by anything.
    """
    if before == after:
        return "it changes nothing"
    try:
        if file.endswith(".py"):
            same = ast.dump(ast.parse(before)) == ast.dump(ast.parse(after))
        elif file.endswith((".yml", ".yaml")):
            # Every value as a string: tags like !vault are no matter of ours.
            same = yaml.load(before, yaml.BaseLoader) == yaml.load(after, yaml.BaseLoader)
        elif file.endswith(".sh"):
            same = False
            shell = "bash" if before.partition("\n")[0].endswith("bash") else "sh"
            subprocess.run([shell, "-n"], input=after, text=True, check=True, capture_output=True)
        else:
            same = False
    except (SyntaxError, yaml.YAMLError, subprocess.CalledProcessError) as error:
        return f"the file is broken as a whole then ({type(error).__name__})"
    return "no program would see a difference" if same else ""


def fault_of(root: Path, one: Mutation) -> str:
    """Say why an entry cannot be used; empty when it can."""
    path = root / one.file
    if not path.is_file():
        return f"there is no {one.file}"
    text = path.read_text(encoding="utf-8")
    if (times := text.count(one.find)) != 1:
        return f"its text stands in {one.file} {times} times, not once: the list is out of date"
    if fault := without_effect(one.file, text, text.replace(one.find, one.replace)):
        return fault
    missing = [name for name in one.tests if not (root / name.partition("::")[0]).exists()]
    if missing or not one.tests:
        return f"there are no tests {', '.join(missing)}".rstrip()
    if one.scenario and not (root / "molecule" / one.scenario / "molecule.yml").is_file():
        return f"there is no scenario {one.scenario}"
    return ""


def check(root: Path, mutations: Sequence[Mutation]) -> None:
    """Check all entries against the repository.

    Raises:
        ListError: with every entry that cannot be used.
    """
    faults = [f"  {one.name}: {fault}" for one in mutations if (fault := fault_of(root, one))]
    names = [one.name for one in mutations]
    faults += [f"  {name}: this name stands twice" for name in sorted({n for n in names if names.count(n) > 1})]
    if faults or not mutations:
        raise ListError("\n".join(["the list cannot be used:", *(faults or ["  it is empty"])]))


def line_of(root: Path, one: Mutation) -> int:
    """Return the number of the line that is broken."""
    text = (root / one.file).read_text(encoding="utf-8")
    return text[: text.index(one.find)].count("\n") + 1

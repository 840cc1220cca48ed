"""What holds for every role: specification, defaults and README say the same, and no role reads another's variables."""

from __future__ import annotations

import json
import re

import pytest

from tests.unit.rendering import ROLE_NAMES, ROLES, options, role_file

COLUMNS = re.compile(r"^\| (`\w+`(?:, `\w+`)*) \| ([^|]*) \| ([^|]+) \|$", re.MULTILINE)


def readme_rows(role):
    """Return variable -> (default, meaning) of the README's table."""
    rows = {}
    for names, default, meaning in COLUMNS.findall((ROLES / role / "README.md").read_text()):
        rows |= dict.fromkeys(re.findall(r"`(\w+)`", names), (default.strip(), meaning.strip()))
    return {name: row for name, row in rows.items() if name.startswith(f"{role}_")}


def in_words(default):
    """Return a default as a README writes it; none for what depends on where the role lies."""
    if not isinstance(default, str) or default == "":
        return f"`{json.dumps(default)}`"
    if "role_path" in default:
        return None
    other = re.fullmatch(r"\{\{ (\w+) \}\}", default)
    return f"`{other[1] if other else re.sub(r'{{ [a-z]+_name }}', 'NAME', default)}`"


def own_names(role):
    """Return the names that belong to a role: its options and the constants in vars."""
    return set(options(role)) | set(role_file(role, "vars/main.yml"))


def test_there_are_roles_to_test():
    assert {"host", "app", "service", "logrotate", "ngrok", "monitor"} <= set(ROLE_NAMES)


@pytest.mark.parametrize("role", ROLE_NAMES)
def test_specification_and_defaults_name_the_same_variables_and_values(role):
    specified = {name: option["default"] for name, option in options(role).items() if "default" in option}
    defaults = role_file(role, "defaults/main.yml")
    assert specified == defaults
    assert {name: type(value) for name, value in specified.items()} == {
        name: type(value) for name, value in defaults.items()
    }


@pytest.mark.parametrize("role", ROLE_NAMES)
def test_every_variable_is_described_and_typed_and_has_a_default_or_is_required(role):
    for name, option in options(role).items():
        assert option["description"], name
        assert option["type"], name
        assert ("default" in option) != option.get("required", False), name


@pytest.mark.parametrize("role", ROLE_NAMES)
def test_every_variable_bears_the_name_of_its_role(role):
    assert [name for name in options(role) if not name.startswith(f"{role}_")] == []
    assert [name for name in role_file(role, "vars/main.yml") if not name.startswith(f"__{role}_")] == []


@pytest.mark.parametrize("role", ROLE_NAMES)
def test_the_role_says_what_it_is_for(role):
    about = role_file(role, "meta/main.yml")
    assert about["galaxy_info"].get("role_name", role) == role
    assert about["galaxy_info"]["description"]
    assert about["dependencies"] == []


@pytest.mark.parametrize("role", ROLE_NAMES)
def test_the_readme_has_every_variable_with_its_default(role):
    rows = readme_rows(role)
    assert set(rows) == set(options(role))
    wrong = {}
    for name, option in options(role).items():
        wanted = in_words(option["default"]) if "default" in option else "required"
        # A long value may be shortened or spaced for the reader.
        if wanted and "…" not in rows[name][0] and rows[name][0] != wanted:
            wrong[name] = f"README has {rows[name][0]}, the role {wanted}"
    assert wrong == {}


@pytest.mark.parametrize("role", ROLE_NAMES)
def test_the_readme_has_a_play_that_needs_no_other_role(role):
    text = (ROLES / role / "README.md").read_text()
    assert f"- role: {role}\n" in text
    others = {name for other in ROLE_NAMES if other != role for name in options(other)}
    (play,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert set(re.findall(r"\w+", play)) & others == set()


@pytest.mark.parametrize("role", ROLE_NAMES)
def test_no_role_reads_another_role_s_variables(role):
    foreign = {name for other in ROLE_NAMES if other != role for name in own_names(other)}
    internals = tuple(f"__{other}_" for other in ROLE_NAMES if other != role)
    found = []
    for part in ("defaults", "vars", "tasks", "handlers", "templates"):
        for path in sorted((ROLES / role / part).rglob("*.*")):
            words = set(re.findall(r"\w+", path.read_text()))
            found += [f"{path.name}: {word}" for word in words if word in foreign or word.startswith(internals)]
    assert found == []

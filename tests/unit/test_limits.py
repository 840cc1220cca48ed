"""A test that hangs fails by its limit, and one that waits for something shows its own message before."""

from __future__ import annotations

import ast
from pathlib import Path

import tomllib
import yaml

from tests.polling import PATIENCE_SECONDS

ROOT = Path(__file__).resolve().parents[2]
LIMIT = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["timeout"]


def test_what_a_test_waits_for_is_given_up_before_the_test_is():
    assert PATIENCE_SECONDS * 2 < LIMIT


def test_the_limit_of_this_test_is_that_of_all(request):
    assert request.config.getini("timeout") == str(LIMIT)


def test_tests_of_machines_have_a_limit_of_their_own_with_room_for_several_playbooks():
    options = yaml.safe_load((ROOT / ".config/molecule/config.yml").read_text())["verifier"]["options"]
    tree = ast.parse((ROOT / "molecule/conftest.py").read_text())
    (longest,) = (
        node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "RUN_SECONDS"
    )
    assert int(options["timeout"]) > 3 * longest

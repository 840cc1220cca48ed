"""The runner of all parts: none is left out, each runs when cores are free, and a lost machine is told apart."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest
import yaml

from lab.kinds import Computer
from tools import scenarios
from tools.outcome import Outcome
from tools.scenarios import Part, main, parts, run, side_by_side

ROOT = Path(__file__).resolve().parents[3]


PLAIN = Computer(kvm=False, memory_controller=False)


def passed(part: Part) -> Outcome:
    return Outcome(part.name, 2, 0, 1)


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A repository with the scenarios default and alpha, and no other part."""
    for name in ("default", "alpha"):
        (tmp_path / "molecule" / name).mkdir(parents=True)
        (tmp_path / "molecule" / name / "molecule.yml").write_text("---\n")
        (tmp_path / "molecule" / name / "inventory").mkdir()
        (tmp_path / "molecule" / name / "inventory/hosts.yml").write_text("all: {hosts: {one: {}}}")
    monkeypatch.setattr(scenarios, "ROOT", tmp_path)
    monkeypatch.setattr(scenarios, "PARTS", {"lint": ("true",)})
    return tmp_path


def test_an_unknown_part_is_refused_with_the_names_there_are(tree, monkeypatch, capsys):
    monkeypatch.setattr(scenarios, "run", lambda part: pytest.fail("ran"))
    assert main(["default", "nowhere"]) == 2
    assert "there is no nowhere; there are: lint, alpha, default; or molecule" in capsys.readouterr().out


def test_no_scenario_at_all_is_no_success(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scenarios, "ROOT", tmp_path)
    assert main([]) == 2
    assert "no scenario" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "ran"),
    [([], ["alpha", "default", "lint"]), (["molecule"], ["alpha", "default"]), (["alpha"], ["alpha"])],
)
def test_everything_runs_or_what_is_named(tree, monkeypatch, capsys, names, ran):
    seen = []
    monkeypatch.setattr(scenarios, "run", lambda part: seen.append(part.name) or passed(part))
    assert main(names) == 0
    assert sorted(seen) == ran
    assert capsys.readouterr().out.splitlines()[-1] == f"{2 * len(ran)} passed, 0 failed"


def test_no_scenario_and_no_part_is_left_out_of_everything(monkeypatch):
    seen = []
    monkeypatch.setattr(scenarios, "run", lambda part: seen.append(part.name) or passed(part))
    assert main([]) == 0
    assert {path.parent.name for path in ROOT.glob("molecule/*/molecule.yml")} | set(scenarios.PARTS) == set(seen)


def test_each_name_of_the_order_is_there():
    assert set(scenarios.ORDER) <= {path.parent.name for path in ROOT.glob("molecule/*/molecule.yml")} | set(
        scenarios.PARTS
    )
    assert [part.name for part in parts(["guests", "memory", "pressure", "unit"], PLAIN)][:3] == [
        "unit",
        "pressure",
        "memory",
    ]


def test_an_emulated_machine_takes_its_cores_and_any_other_scenario_half_of_one():
    def cores(computer: Computer) -> dict[str, float]:
        return {part.name: part.cores for part in parts(["memory", "pressure", "front", "unit"], computer)}

    assert cores(PLAIN) == {"unit": 2, "pressure": 2, "memory": 1, "front": 0.5}
    assert cores(Computer(kvm=False, memory_controller=True))["memory"] == 0.5
    assert cores(Computer(kvm=True, memory_controller=True))["memory"] == 0.5
    assert cores(Computer(kvm=False, memory_controller=True, no_container="no root"))["front"] == 1


def test_parts_run_side_by_side_as_the_cores_allow():
    both, most, now = threading.Barrier(2), [0.0], [0.0]
    lock = threading.Lock()

    def one(part: Part) -> Outcome:
        with lock:
            now[0] += part.cores
            most[0] = max(most[0], now[0])
        if part.name in ("a", "small"):
            both.wait(20)
        with lock:
            now[0] -= part.cores
        return passed(part)

    chosen = [Part("a", (), 1.5), Part("wide", (), 2), Part("small", (), 0.5), Part("wider", (), 3), Part("c", ())]
    outcomes = side_by_side(chosen, 2, one)
    assert [outcome.name for outcome in outcomes] == ["a", "wide", "small", "wider", "c"]
    assert most[0] == 3, "the one that wants more than there is ran alone"


@pytest.mark.parametrize(("lost", "times"), [(True, 2), (False, 1)])
def test_only_a_part_whose_machine_was_lost_is_run_again(tree, monkeypatch, lost, times):
    ran = []
    monkeypatch.setattr(scenarios, "run", lambda part: ran.append(part.name) or Outcome(part.name, 0, 1, 1, lost=lost))
    assert main(["alpha"]) == 1
    assert ran == ["alpha"] * times


def test_one_bad_part_fails_the_run_but_not_before_the_others_ran(tree, monkeypatch, capsys):
    monkeypatch.setattr(scenarios, "run", lambda part: Outcome(part.name, 2 if part.name == "alpha" else 0, 0, 1))
    assert main(["molecule"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "2 passed, 1 failed"


@pytest.mark.parametrize(
    ("script", "result"),
    [
        ("echo '│ 3 passed in 1.00s'", (3, ())),
        ("echo '3 passed in 1.00s'; exit 1", (3, ("ended with 1",))),
        ("echo 'WARNING  Skipping, no tests found.' >&2", (0, ("WARNING  Skipping, no tests found.",))),
        ("echo '│ x: LOST x is stopped. Last'; echo '3 passed in 1s'", (3, ())),
        ("echo 'canary-0123456789abcdef 3 passed in 1s'", (3, ("a secret of the inventory shows in the output",))),
        ("printf '\\377 3 passed in 1.00s\\n'", (3, ())),
    ],
)
def test_a_scenario_runs_molecule_and_shows_its_output(tree, monkeypatch, capsys, script, result):
    (tree / "molecule-stub").mkdir()
    program = tree / "molecule-stub" / "molecule"
    program.write_text(f'#!/bin/sh\necho "$*"\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program.with_name("python")))
    outcome = run(parts(["alpha"], PLAIN)[0])
    assert (outcome.name, (outcome.passed, outcome.complaints)) == ("alpha", result)
    assert outcome.lost is ("LOST" in script)
    assert capsys.readouterr().out.startswith("    alpha test --scenario-name alpha\n")


def test_each_part_says_how_it_runs_alone():
    commands = {part.alone for part in parts(["lint", "front", "lab"], PLAIN)}
    assert commands == {"make lint", "make test ONLY=front", "make test ONLY=lab"}


# The scenarios of this repository

SCENARIOS = sorted(ROOT.glob("molecule/*/molecule.yml"))


def steps(path):
    loaded = yaml.safe_load(path.read_text())
    return [str(step).split() for step in loaded["scenario"]["test_sequence"]]


def test_there_are_scenarios():
    assert SCENARIOS


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.parent.name)
def test_every_file_that_a_sequence_names_is_there(path):
    missing = [words[1] for words in steps(path) if len(words) > 1 and not (path.parent / words[1]).exists()]
    assert missing == []


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.parent.name)
def test_every_playbook_that_a_scenario_names_is_there(path):
    playbooks = (yaml.safe_load(path.read_text()).get("ansible") or {}).get("playbooks") or {}
    assert [name for name in playbooks.values() if not (path.parent / name).is_file()] == []


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.parent.name)
def test_a_sequence_with_side_effects_also_names_one_so_that_molecule_runs_them(path):
    if any(words[0] == "side_effect" for words in steps(path)):
        assert yaml.safe_load(path.read_text())["ansible"]["playbooks"]["side_effect"]


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.parent.name)
def test_every_directory_to_verify_holds_sentences(path):
    verified = [words[1] if len(words) > 1 else "tests" for words in steps(path) if words[0] == "verify"]
    assert verified
    for name in verified:
        files = list((path.parent / name).glob("test_*.py"))
        assert files, f"{path.parent.name}: {name} holds no test_*.py"
        assert all("def test_" in file.read_text() for file in files)


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.parent.name)
def test_every_file_of_sentences_is_verified_by_a_step(path):
    verified = {
        path.parent / (words[1] if len(words) > 1 else "tests") for words in steps(path) if words[0] == "verify"
    }
    assert {file.parent for file in path.parent.rglob("test_*.py")} <= verified

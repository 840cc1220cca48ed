"""The runner of all scenarios must not take silence for success; nor must a scenario name a file that is not there."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tools import scenarios
from tools.scenarios import Outcome, causes, counted, main, run, silently_passed, table

ROOT = Path(__file__).resolve().parents[3]
GOOD = Outcome("default", 12, 0, 301.4, ())


@pytest.mark.parametrize(
    "line",
    [
        "WARNING  default > side_effect: Executed: Missing playbook (remove from test_sequence to suppress)\n",
        "\x1b[33mWARNING \x1b[0m \x1b[2mMissing playbook (remove from test_sequence to suppress)",
        "WARNING  Skipping, no tests found.\n",
        "WARNING  Skipping, verifier is disabled.\n",
        "│ no tests ran in 0.01s\n",
    ],
)
def test_what_molecule_leaves_out_is_noticed(line):
    (found,) = silently_passed(["INFO all is well\n", line])
    assert "\x1b" not in found
    assert found == found.strip()


@pytest.mark.parametrize(
    "line",
    [
        "INFO     default > verify: Executed: Successful\n",
        "INFO     Verifier completed successfully.\n",
        "INFO     Skipping, instances already created.\n",
        "12 passed in 3.40s\n",
    ],
)
def test_ordinary_lines_are_no_complaint(line):
    assert silently_passed([line]) == []


@pytest.mark.parametrize(
    ("line", "numbers"),
    [
        ("12 passed in 3.40s", (12, 0)),
        ("======= 12 passed in 65.20s (0:01:05) =======", (12, 0)),
        ("\x1b[32m=== \x1b[32m\x1b[1m12 passed\x1b[0m\x1b[32m in 3.40s\x1b[0m\x1b[32m ===\x1b[0m", (12, 0)),
        ("  │ 12 passed in 3.40s", (12, 0)),
        ("│ 2 failed, 10 passed, 1 skipped in 3.40s │", (10, 2)),
        ("1 failed, 3 passed, 2 errors in 9.00s", (3, 3)),
        ("1 error in 0.10s", (0, 1)),
        ("1 passed, 1 xfailed, 1 xpassed, 3 warnings in 0.10s", (1, 0)),
        ("no tests ran in 0.01s", (0, 0)),
        ("3 deselected in 0.10s", (0, 0)),
        ("ok: 4 changed, 1 failed in the host phase", (0, 0)),
        ("currents : ok=4 changed=0 failed=0", (0, 0)),
    ],
)
def test_only_the_closing_lines_of_pytest_are_counted(line, numbers):
    assert counted([line + "\n"]) == numbers


def test_the_closing_lines_of_all_verify_steps_add_up():
    assert counted(["3 passed in 1.00s\n", "INFO\n", "1 failed, 2 passed in 1.00s\n"]) == (5, 1)


def test_a_scenario_is_good_only_when_it_tested_something_and_nobody_complained():
    assert GOOD.good
    assert not Outcome("x", 0, 0, 1, ()).good
    assert not Outcome("x", 5, 1, 1, ()).good
    assert not Outcome("x", 5, 0, 1, ("Skipping, no tests found.",)).good


def test_the_table_has_a_row_per_scenario_and_its_complaints_below():
    bad = Outcome("tunnel-that-is-long", 3, 1, 61.5, ("molecule ended with 1",))
    assert table([GOOD, bad]).splitlines() == [
        "Scenario             tests  failed  seconds",
        "default                 12       0      301",
        "tunnel-that-is-long      3       1       62",
        "                     molecule ended with 1",
    ]


def test_the_table_of_one_scenario_is_as_wide_as_its_heading():
    assert table([Outcome("a", 1, 0, 1, ())]).splitlines()[1] == "a             1       0        1"


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A repository with the scenarios default and alpha."""
    for name in ("default", "alpha"):
        (tmp_path / "molecule" / name).mkdir(parents=True)
        (tmp_path / "molecule" / name / "molecule.yml").write_text("---\n")
    monkeypatch.setattr(scenarios, "ROOT", tmp_path)
    monkeypatch.setattr(scenarios, "remove", lambda image: [])
    return tmp_path


def test_an_unknown_scenario_is_refused_with_the_names_there_are(tree, monkeypatch, capsys):
    monkeypatch.setattr(scenarios, "run", lambda name, shared=(): pytest.fail("ran"))
    assert main(["default", "nowhere"]) == 2
    assert capsys.readouterr().out == "there is no scenario nowhere; there are: alpha, default\n"


def test_no_scenario_at_all_is_no_success(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scenarios, "ROOT", tmp_path)
    assert main([]) == 2
    assert "no scenario" in capsys.readouterr().out


def test_the_end_of_the_output_says_why_a_scenario_failed():
    lines = [
        "  \x1b[2m│\x1b[0m E       assert 3 == 4",
        "  │ E       assert 3 == 4",
        "  │ everything else",
        "  │ FAILED tests/test_a.py::test_b - AssertionError",
        "  │ fatal: [currents]: UNREACHABLE!",
        "  │     Connection reset by peer",
        "  │ [WARNING]: and so on",
        "  │     not of it",
        "  │ currents: LOST one is stopped.",
        "  │     Kernel panic",
    ]
    assert causes(lines) == [
        "E       assert 3 == 4",
        "FAILED tests/test_a.py::test_b - AssertionError",
        "fatal: [currents]: UNREACHABLE!",
        "    Connection reset by peer",
        "LOST one is stopped.",
        "    Kernel panic",
    ]


def test_all_scenarios_run(tree, monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(scenarios, "run", lambda name, shared=(): ran.append(name) or Outcome(name, 2, 0, 1, ()))
    assert main([]) == 0
    assert sorted(ran) == ["alpha", "default"]
    assert capsys.readouterr().out.splitlines()[-1] == "4 passed, 0 failed"


def test_each_scenario_of_the_order_is_there(tree, monkeypatch):
    found = {path.parent.name for path in ROOT.glob("molecule/*/molecule.yml")}
    named = [scenarios.FIRST, *(name for line in scenarios.LINES.values() for name in line), *scenarios.BY_HAND]
    assert sorted(named) == sorted(set(named)), "none twice"
    assert set(named) <= found


@pytest.fixture
def done(monkeypatch):
    """What is run and removed, in its order, without a lab."""
    done = []
    monkeypatch.setattr(scenarios, "remove", lambda image: done.append(f"remove {image}") or [])
    monkeypatch.setattr(
        scenarios,
        "run",
        lambda name, shared=(): done.append(" ".join((name, *shared))) or Outcome(name, 2, 0, 1, ()),
    )
    return done


def test_those_of_a_line_follow_one_another_on_one_machine_that_is_removed(done):
    assert [one.name for one in scenarios.run_line(["release", "memory"], "debian12")] == ["release", "memory"]
    assert done == ["release debian12", "memory debian12", "remove debian12"]


def test_a_line_whose_scenario_breaks_leaves_no_machine(done, monkeypatch):
    monkeypatch.setattr(scenarios, "run", lambda name, shared=(): 1 / 0)
    with pytest.raises(ZeroDivisionError):
        scenarios.run_line(["release"], "debian12")
    assert done == ["remove debian12"]


def test_what_follows_the_first_waits_for_its_machines(done):
    ran = scenarios.run_all(["default", "guests", "memory", "pressure", "release", "restart", "tunnel"])
    assert [one.name for one in ran] == ["default", "release", "memory", "guests", "restart", "tunnel", "pressure"]
    assert done[:3] == ["remove debian12", "remove debian13", "default debian12 debian13"], "what a killed run left"
    assert "pressure" in done, "its machine is its own"
    for last in ("guests debian12", "tunnel debian13"):
        assert f"remove {last.split()[1]}" in done[done.index(last) :]


@pytest.mark.parametrize(("given", "removed"), [("line-1", False), ("", True)])
def test_molecule_leaves_a_machine_that_it_was_given(tmp_path, given, removed):
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_STDOUT_CALLBACK": "default",
        "LAB_HOME": str(tmp_path / "lab"),
        "MOLECULE_SCENARIO_NAME": "front",
        "MOLECULE_SCENARIO_DIRECTORY": str(tmp_path),
        "SCENARIO_MACHINES": given,
    }
    program = Path(sys.executable).with_name("ansible-playbook")
    destroy = [program, "-i", "currents,", ROOT / "molecule/shared/destroy.yml"]
    done = subprocess.run(destroy, env=environment, capture_output=True, text=True, check=True)
    assert ("changed: [currents]" in done.stdout) is removed, done.stdout


@pytest.mark.parametrize(
    ("chosen", "lines"),
    [
        (["default", "tunnel"], {"debian12": [], "debian13": ["tunnel"]}),
        (["memory", "release", "tunnel"], {"debian12": ["release", "memory"]}),
        (["default"], {}),
        (["memory", "tunnel", "pressure"], {}),
    ],
)
def test_only_a_machine_that_is_used_again_is_shared(chosen, lines):
    assert scenarios.shared_lines(chosen) == lines


@pytest.mark.parametrize("names", [["memory"], ["pressure"], ["default"]])
def test_who_shares_with_nobody_leaves_the_machines_of_another_run_alone(done, names):
    assert [one.name for one in scenarios.run_all(names)] == names
    assert done == names


def test_an_interrupted_first_one_leaves_no_machine(done, monkeypatch):
    def interrupted(name, shared=()):
        raise KeyboardInterrupt

    monkeypatch.setattr(scenarios, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        scenarios.run_all(["default", "memory"])
    assert done == ["remove debian12", "remove debian13"] * 2


def hosts_of(name):
    return yaml.safe_load((ROOT / "molecule" / name / "inventory/hosts.yml").read_text())["all"]["hosts"]


def wish(host, image):
    """What a host of a scenario asks of the lab."""
    asked = {key: value for key, value in host.items() if key.startswith("lab_")}
    for name in ("lab_machine", "lab_throttle"):
        asked.pop(name, None)
    return {**asked, "lab_image": asked["lab_image"].replace("{{ inventory_hostname }}", image)}


@pytest.mark.parametrize(("image", "name"), [(image, name) for image, line in scenarios.LINES.items() for name in line])
def test_who_goes_on_with_a_machine_asks_for_the_same_one(image, name):
    for host in hosts_of(name).values():
        assert wish(host, image) == wish(hosts_of(scenarios.FIRST)[image], image)


@pytest.mark.parametrize(
    ("given", "called"), [("line-1", "line-1-debian12"), ("", "front-{}-front")], ids=["shared", "its own"]
)
def test_a_machine_is_named_after_the_first_scenarios_or_after_its_own(tmp_path, given, called):
    environment = {**os.environ, "MOLECULE_SCENARIO_NAME": "front", "SCENARIO_MACHINES": given}
    ansible = Path(sys.executable).with_name("ansible")
    variables = f"@{ROOT}/molecule/shared/vars/lab.yml"
    inventory = ROOT / "molecule/front/inventory/hosts.yml"
    asked = [ansible, "-i", inventory, "currents", "--playbook-dir", ROOT / "molecule/shared", "-e", variables]
    shown = subprocess.run(
        [*asked, "-m", "ansible.builtin.debug", "-a", "msg={{ lab_machine_name }}"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    checkout = hashlib.sha1(str(ROOT / "molecule/shared").encode(), usedforsecurity=False).hexdigest()[:6]
    assert f'"{called.format(checkout)}"' in shown.stdout


def test_a_failure_takes_the_machines_away_and_hears_whether_it_was_lost(tmp_path, monkeypatch, capsys):
    molecule = tmp_path / "molecule"
    molecule.write_text("#!/bin/sh\necho given=$SCENARIO_MACHINES\nexit 1\n")
    molecule.chmod(0o755)
    monkeypatch.setattr(scenarios.sys, "executable", str(tmp_path / "python"))
    removed = []
    monkeypatch.setattr(scenarios, "remove", lambda image: removed.append(image) or [f"LOST {image} is stopped."])
    outcome = scenarios.run("default", ("debian12", "debian13"))
    assert f"given={scenarios.prefix()}" in capsys.readouterr().out
    assert removed == ["debian12", "debian13"]
    assert outcome.lost
    assert not outcome.good


@pytest.mark.parametrize(("lost", "times"), [(True, 2), (False, 1)])
def test_only_a_scenario_whose_machine_was_lost_is_run_again(tree, monkeypatch, lost, times):
    ran = []
    monkeypatch.setattr(
        scenarios, "run", lambda name, shared=(): ran.append(name) or Outcome(name, 0, 1, 1, (), lost=lost)
    )
    assert main(["alpha"]) == 1
    assert ran == ["alpha"] * times


def test_one_bad_scenario_fails_the_run_but_not_before_the_others_ran(tree, monkeypatch, capsys):
    monkeypatch.setattr(scenarios, "run", lambda name, shared=(): Outcome(name, 2 if name == "alpha" else 0, 0, 1, ()))
    assert main([]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "2 passed, 1 failed"


@pytest.mark.parametrize(
    ("script", "result"),
    [
        ("echo '│ 3 passed in 1.00s'", (3, ())),
        ("echo '3 passed in 1.00s'; exit 1", (3, ("molecule ended with 1",))),
        ("echo 'WARNING  Skipping, no tests found.' >&2", (0, ("WARNING  Skipping, no tests found.",))),
        ("echo '│ x: LOST x is stopped. Last'; echo '3 passed in 1s'", (3, ())),
        ("printf '\\377 3 passed in 1.00s\\n'", (3, ())),
    ],
)
def test_a_scenario_runs_molecule_and_shows_its_output(tree, monkeypatch, capsys, script, result):
    (tree / "molecule-stub").mkdir()
    program = tree / "molecule-stub" / "molecule"
    program.write_text(f'#!/bin/sh\necho "$*"\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program.with_name("python")))
    outcome = run("alpha")
    assert (outcome.name, (outcome.passed, outcome.complaints)) == ("alpha", result)
    assert capsys.readouterr().out.startswith("    alpha test --scenario-name alpha\n")


# The scenarios of this repository

SCENARIOS = sorted(ROOT.glob("molecule/*/molecule.yml"))


def steps(path):
    loaded = yaml.safe_load(path.read_text())
    return [str(step).split() for step in loaded["scenario"]["test_sequence"]]


def test_there_are_scenarios():
    assert SCENARIOS


def test_what_runs_only_by_name_is_there_and_the_summary_says_why(tree, monkeypatch, capsys):
    assert set(scenarios.BY_HAND) <= {path.parent.name for path in SCENARIOS}
    ran = []
    monkeypatch.setattr(scenarios, "BY_HAND", {"alpha": "it is slow"})
    monkeypatch.setattr(scenarios, "run", lambda name, shared=(): ran.append(name) or Outcome(name, 2, 0, 1, ()))
    assert main([]) == 0
    assert ran == ["default"]
    assert "left out: alpha: it is slow" in capsys.readouterr().out
    assert main(["alpha"]) == 0
    assert ran == ["default", "alpha"]


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

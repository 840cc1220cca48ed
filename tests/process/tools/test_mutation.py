"""The mutation test on a tiny repository, with real git and real pytest; and the list of this repository against it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.polling import PATIENCE_SECONDS
from tools import mutation
from tools.mutation import main, page, snapshot
from tools.mutation_list import LIST, PLAN, ListError, Mutation, check, load, without_effect

REPOSITORY = Path(__file__).resolve().parents[3]
APP = '"""A keeper."""\n\nlimit = 5\nunit = "Restart=always"\npause = 0\n'
TESTS = """
import time
from pathlib import Path

import app


def test_unit():
    assert "always" in app.unit


def test_pause():
    Path("pid").write_text(str(__import__("os").getpid()))
    time.sleep(app.pause)
"""
KILLED = {
    "name": "The app is not started again",
    "file": "app.py",
    "find": "Restart=always",
    "replace": "Restart=no",
    "tests": ["tests/test_app.py"],
}
SURVIVOR = {**KILLED, "name": "There is no limit", "find": "limit = 5", "replace": "limit = 0"}
HANG = {**KILLED, "name": "It waits for ever", "find": "pause = 0", "replace": "pause = 3600"}
#: Its own tests look elsewhere; only the whole suite has a test for it.
BY_SUITE = {**KILLED, "name": "Nobody near looks", "tests": ["tests/test_other.py"]}


@pytest.fixture
def repository(tmp_path):
    """A repository with a module, its tests and a list; returns a way to write that list."""
    top = tmp_path / "fake"
    for name, text in {
        "app.py": APP,
        "pyproject.toml": '[tool.pytest.ini_options]\npythonpath = ["."]\n',
        ".gitignore": "__pycache__/\nmine.yml\n",
        "mine.yml": "secret",
        "tests/test_app.py": TESTS,
        "tests/test_other.py": "def test_other():\n    pass\n",
        "tests/test_list.py": 'def test_list():\n    assert "always" in open("app.py").read()\n',
    }.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    (top / LIST).mkdir(parents=True)
    (top / "link").symlink_to("app.py")
    subprocess.run(["git", "init", "--quiet"], cwd=top, check=True)

    def write(*mutations, seconds=60):
        plan = {
            "suite": ["tests"],
            "ignored": ["tests/test_list.py"],
            "seconds": {"tests": seconds, "suite": 60, "scenario": 60},
        }
        # The first in a file, the others in another one.
        contents = {PLAN: plan, "a.yml": list(mutations[:1]), "b.yml": list(mutations[1:])}
        for name, content in contents.items():
            (top / LIST / name).write_text(yaml.safe_dump(content))
        return top

    write.top = top
    return write


#: As make runs it.
PROGRAM = (sys.executable, "-m", "tools.mutation")


def run(top, *words):
    """Run the program as make does; return exit code and output."""
    done = subprocess.run(
        [*PROGRAM, "--root", str(top), *words],
        cwd=REPOSITORY,
        # It starts pytest again and again, and the plugins of this environment are a quarter of each start.
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    return done.returncode, done.stdout + done.stderr


def verdicts(top):
    return json.loads((top / ".cache/results/mutation.json").read_text())


# One run, on real tests


def test_a_broken_line_that_a_test_sees_is_noticed_and_the_test_is_named(repository):
    top = repository(KILLED)
    code, said = run(top)
    assert code == 0, said
    assert "1 of 1 noticed, 0 survived" in said
    (one,) = verdicts(top)["verdicts"]
    assert (one["outcome"], one["by"], one["line"]) == ("noticed", "tests/test_app.py::test_unit", 4)
    assert one["step"] == "its own tests"
    assert (top / "app.py").read_text() == APP, "the repository itself is never broken"


def test_a_broken_line_that_nobody_sees_has_survived_and_fails_the_run(repository):
    top = repository(KILLED, SURVIVOR)
    code, said = run(top)
    assert code == 1, said
    assert "survived: There is no limit (app.py, line 3)" in said
    assert "1 of 2 noticed, 1 survived" in said
    assert [one["outcome"] for one in verdicts(top)["verdicts"]] == ["noticed", "survived"]
    assert "| There is no limit | `app.py`, line 3 | **nobody** |" in (top / ".cache/results/mutation.md").read_text()


def test_what_its_own_tests_do_not_see_the_whole_suite_may(repository):
    top = repository(BY_SUITE)
    code, said = run(top)
    assert code == 0, said
    assert "not by its own tests: Nobody near looks" in said
    (one,) = verdicts(top)["verdicts"]
    assert one["step"] == "the whole unit suite"
    assert one["by"] == "tests/test_app.py::test_unit", "the test of the list itself does not count"


def test_tests_that_hang_have_noticed_and_nothing_of_them_stays(repository):
    top = repository(HANG, seconds=5)
    (top / "tests/test_app.py").write_text(TESTS.replace('"pid"', repr(str(top / "pid"))))
    code, said = run(top)
    assert code == 0, said
    (one,) = verdicts(top)["verdicts"]
    assert one["by"] == "a hang: not done after 5 s"
    assert one["seconds"] < 5 + mutation.GRACE_SECONDS, "pytest obeys an interrupt"
    with pytest.raises(ProcessLookupError):
        os.kill(int((top / "pid").read_text()), 0)


def test_tests_that_are_red_without_any_mutation_prove_nothing(repository):
    top = repository(KILLED)
    (top / "tests/test_app.py").write_text("def test_app():\n    assert False\n")
    code, said = run(top)
    assert code == 2
    assert "red without any mutation" in said
    assert "tests/test_app.py::test_app" in said
    assert not (top / ".cache").exists(), "there is no result"


MOODY = """
from pathlib import Path


def test_moody():
    runs = Path({runs!r})
    runs.write_text(runs.read_text() + "." if runs.exists() else ".")
    assert not {fails}


def test_sound():
    assert "always" in Path("app.py").read_text()
"""


@pytest.mark.parametrize("fails", ["len(runs.read_text()) == 2", "len(runs.read_text()) >= 2"])
def test_a_test_that_fails_without_the_mutation_too_is_left_out_and_the_others_are_asked(repository, fails):
    # Its first run is the control: from then on it fails once, or always.
    top = repository({**KILLED, "tests": ["tests/test_moody.py"]})
    (top / "tests/test_moody.py").write_text(MOODY.format(runs=str(top / "runs"), fails=fails))
    code, said = run(top)
    assert code == 0, said
    assert verdicts(top)["verdicts"][0]["by"] == "tests/test_moody.py::test_sound"


def test_a_control_that_fails_only_now_and_then_is_no_reason_to_stop(repository):
    top = repository({**KILLED, "tests": ["tests/test_moody.py"]})
    (top / "tests/test_moody.py").write_text(MOODY.format(runs=str(top / "runs"), fails="len(runs.read_text()) == 1"))
    code, said = run(top)
    assert code == 0, said
    assert "control: tests/test_moody.py::test_moody fails now and then" in said
    assert verdicts(top)["verdicts"][0]["by"] == "tests/test_moody.py::test_sound"


def test_a_test_that_fails_only_now_and_then_has_not_noticed(repository):
    top = repository({**SURVIVOR, "tests": ["tests/test_moody.py::test_moody"]})
    fails = "len(runs.read_text()) == 2"
    (top / "tests/test_moody.py").write_text(MOODY.format(runs=str(top / "runs"), fails=fails))
    code, said = run(top)
    assert code == 1, said
    assert "not by its own tests: There is no limit" in said


def test_tests_that_cannot_even_be_loaded_have_noticed(repository):
    top = repository({**KILLED, "find": "limit = 5", "replace": "limit = 1 / 0"})
    code, said = run(top)
    assert code == 0, said
    assert verdicts(top)["verdicts"][0]["by"] == "tests/test_app.py"


def test_a_control_that_runs_no_test_proves_nothing(repository):
    top = repository({**KILLED, "tests": ["tests/test_none.py"]})
    (top / "tests/test_none.py").write_text("")
    code, said = run(top)
    assert code == 2
    assert "no tests ran" in said


def test_an_entry_that_is_out_of_date_stops_everything_before_any_test_runs(repository):
    top = repository(KILLED, {**SURVIVOR, "find": "limit = 7"})
    code, said = run(top)
    assert code == 2
    assert "There is no limit: its text stands in app.py 0 times, not once: the list is out of date" in said
    assert "control" not in said
    assert not (top / ".cache").exists()


def test_a_part_of_the_list_can_be_tried_and_is_no_result(repository):
    top = repository(KILLED, SURVIVOR)
    code, said = run(top, "--only", "STARTED again")
    assert code == 0
    assert "1 of 1 noticed" in said
    assert not (top / ".cache").exists()


def test_a_scenario_is_run_when_asked_for_and_for_what_nobody_else_noticed(repository):
    top = repository({**SURVIVOR, "scenario": "default"}, KILLED)
    (top / "molecule/default").mkdir(parents=True)
    (top / "molecule/default/molecule.yml").write_text("---\n")
    (top / "tools/scenarios.py").write_text(
        'import sys\nprint(f"  default │ FAILED tests/test_{sys.argv[1]}.py::test_it - AssertionError")\nsys.exit(1)\n'
    )
    code, said = run(top, "--molecule")
    assert code == 0, said
    survivor, killed = verdicts(top)["verdicts"]
    assert (survivor["step"], survivor["by"]) == ("a scenario", "tests/test_default.py::test_it")
    assert killed["step"] == "its own tests"
    assert verdicts(top)["machine"] in ("KVM", "TCG")


def test_an_interrupt_ends_the_tests_and_leaves_no_result(repository):
    top = repository(HANG, seconds=100)
    (top / "tests/test_app.py").write_text(TESTS.replace('"pid"', repr(str(top / "pid"))))
    with (top / "said").open("w") as said:
        process = subprocess.Popen([*PROGRAM, "--root", str(top)], cwd=REPOSITORY, stdout=said, stderr=said)
    deadline = time.monotonic() + PATIENCE_SECONDS
    # The control writes it first; the mutant hangs with another number in it.
    control = None
    while not (control and (top / "pid").read_text() != control):
        assert time.monotonic() < deadline, (top / "said").read_text()
        if (top / "pid").exists():
            control = control or (top / "pid").read_text() or None
        time.sleep(0.02)
    process.send_signal(2)
    assert process.wait(PATIENCE_SECONDS) == 130
    assert "interrupted; no result was written" in (top / "said").read_text()
    assert not (top / ".cache").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int((top / "pid").read_text()), 0)


# The copy


def test_the_copy_has_what_git_knows_or_would_add_as_it_stands_now(repository, tmp_path):
    top = repository(KILLED)
    subprocess.run(["git", "add", "."], cwd=top, check=True)
    (top / "tests/test_other.py").unlink()
    (top / "new.py").write_text("")
    (top / ".venv").mkdir()
    snapshot(top, tmp_path / "copy")
    copied = {str(path.relative_to(tmp_path / "copy")) for path in (tmp_path / "copy").rglob("*")}
    assert {"app.py", "new.py", "tests/test_app.py", f"{LIST}/{PLAN}"} <= copied
    assert not copied & {"mine.yml", "tests/test_other.py", ".git"}, "neither ignored nor deleted files"
    assert (tmp_path / "copy/link").readlink() == Path("app.py")
    assert (tmp_path / "copy/.venv").readlink() == top / ".venv"


# The list


@pytest.mark.parametrize(
    ("file", "before", "after", "fault"),
    [
        ("a.j2", "A=1", "A=1", "it changes nothing"),
        ("a.py", "a = 1", "a = (", "the file is broken as a whole then (SyntaxError)"),
        ("a.py", "a = 1  # one", "a = 1  # two", "no program would see a difference"),
        ("a.yml", "a: [1]", "a: [1", "the file is broken as a whole then (ParserError)"),
        ("a.yml", "a: !vault x # one", "a: !vault x # two", "no program would see a difference"),
        ("a.sh", "if a; then b; fi", "if a; then b", "the file is broken as a whole then (CalledProcessError)"),
        ("a.py", "a = 1", "a = 2", ""),
        ("a.yml", "a: !vault x", "a: !vault y", ""),
        ("a.sh", "a", "b", ""),
        ("a.j2", "A=1", "", ""),
    ],
)
def test_a_mutation_must_be_one_that_only_a_test_can_notice(file, before, after, fault):
    assert without_effect(file, before, after) == fault


ONE = Mutation("A sentence", "app.py", "limit = 5", "limit = 6", ("tests/test_app.py",))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"file": "gone.py"}, "there is no gone.py"),
        ({"find": "e"}, "times, not once: the list is out of date"),
        ({"replace": "limit = 5"}, "it changes nothing"),
        ({"tests": ("tests/test_gone.py::test_x",)}, "there are no tests tests/test_gone.py::test_x"),
        ({"tests": ()}, "there are no tests"),
        ({"scenario": "nowhere"}, "there is no scenario nowhere"),
    ],
)
def test_an_entry_that_cannot_be_used_is_named_with_the_reason(repository, change, fault):
    top = repository(KILLED)
    check(top, [ONE])
    with pytest.raises(ListError, match="A sentence") as error:
        check(top, [replace(ONE, **change)])
    assert fault in str(error.value)


def test_two_entries_of_one_name_and_an_empty_list_are_refused(repository):
    top = repository(KILLED)
    with pytest.raises(ListError, match="A sentence: this name stands twice"):
        check(top, [ONE, replace(ONE, replace="limit = 7")])
    with pytest.raises(ListError, match="it is empty"):
        check(top, [])


@pytest.mark.parametrize("change", [{"tests": "tests"}, {"find": 5}, {"why": "because"}, {"name": None}])
def test_an_entry_of_another_shape_is_refused(repository, capsys, change):
    top = repository({**KILLED, **change})
    assert main(["--root", str(top)]) == 2
    assert "cannot be read" in capsys.readouterr().out


@pytest.mark.parametrize("name", [PLAN, "b.yml"])
def test_the_file_of_the_list_that_cannot_be_read_is_named(repository, capsys, name):
    top = repository(KILLED)
    (top / LIST / name).write_text("suite: tests\n")
    assert main(["--root", str(top)]) == 2
    assert f"{name} cannot be read" in capsys.readouterr().out


def test_the_page_has_a_row_for_each_whatever_is_in_its_names():
    one = mutation.Verdict("A | B", "a.j2", 3, "noticed", "test_a.py::test_b[x|y]", "its own tests", 1.25)
    text = page([one], "2026-01-31", "no machine needed")
    assert "2026-01-31: 1 of 1 noticed; machine: no machine needed." in text
    assert "| A \\| B | `a.j2`, line 3 | `test_a.py::test_b[x\\|y]` | 1.2 |" in text


# The list of this repository


def test_the_list_fits_the_repository_and_is_long_enough():
    plan = load(REPOSITORY / LIST)
    check(REPOSITORY, plan.mutations)
    assert len(plan.mutations) >= 30
    assert all((REPOSITORY / name).exists() for name in (*plan.suite, *plan.ignored))


def test_the_suite_of_the_list_is_the_one_that_make_runs():
    commands = [line.split() for line in (REPOSITORY / "Makefile").read_text().splitlines() if "/pytest " in line]
    tests = [words[words.index("worksteal") + 1 :] for words in commands]
    assert [name for names in tests for name in names] == list(load(REPOSITORY / LIST).suite)


def test_the_tests_of_the_list_do_not_judge_its_mutations():
    assert str(Path(__file__).relative_to(REPOSITORY)) in load(REPOSITORY / LIST).ignored

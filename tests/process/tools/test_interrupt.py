"""The judge of interruptions, and the callback that kills, with a real run on this computer."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.unit.rendering import ROLES, read_yaml
from tools import host_state, interruption
from tools.interrupt import CUTS, attempts, document
from tools.interruption import InterruptError, Outcome, Site, Step, differences, lines, points

PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - name: One
      copy: {content: "1", dest: "{{ app_source }}/1"}
    - name: Left out
      command: "false"
      when: false
    - name: Two
      copy: {content: "2", dest: "{{ app_source }}/2"}
"""


@pytest.fixture
def site(tmp_path):
    inventory = tmp_path / "hosts.yml"
    variables = f"ansible_connection: local, ansible_python_interpreter: '{sys.executable}'"
    inventory.write_text(f"all: {{hosts: {{here: {{{variables}}}}}}}")
    (tmp_path / "play.yml").write_text(PLAY)
    return Site("none", inventory, "http://127.0.0.1:1", tmp_path)


def test_a_run_is_killed_after_the_task_that_was_asked_for(site, tmp_path):
    done = site.run("A", after=1, playbook=str(tmp_path / "play.yml"))
    assert done.status == -signal.SIGKILL
    assert done.steps == (Step(1, "One", True),)
    assert not (tmp_path / "A/2").exists()


def test_an_undisturbed_run_tells_its_tasks_but_not_those_left_out(site, tmp_path):
    done = site.run("B", playbook=str(tmp_path / "play.yml"))
    assert (done.status, done.changed) == (0, ["One", "Two"]), done.output
    assert [step.number for step in done.steps] == [1, 2]
    begun = [line["begins"] for line in lines(tmp_path / "1.trace") if "begins" in line]
    assert begun == ["One", "Left out", "Two"]
    again = site.run("B", playbook=str(tmp_path / "play.yml"))
    assert again.changed == []


def test_a_deploy_that_fails_without_being_disturbed_ends_the_test(site, tmp_path):
    with pytest.raises(interruption.InterruptError, match="failed without being disturbed"):
        site.deploy("A", str(tmp_path / "missing.yml"))


def test_a_host_is_compared_once_no_release_is_watched_any_more(site, monkeypatch):
    answers = ["ActiveState=active\n", "ActiveState=inactive\n", '{"current": "one"}']
    monkeypatch.setattr(site, "on_host", lambda *command, text="": answers.pop(0))
    assert site.state() == {"current": "one"}
    monkeypatch.setattr(site, "on_host", lambda *command, text="": "ActiveState=active\n")
    monkeypatch.setattr(interruption, "BACK_SECONDS", 0.1)
    with pytest.raises(interruption.InterruptError, match="the watch's end"):
        site.state()


def test_the_two_states_differ_in_one_line_of_code(site, tmp_path):
    one, other = (tmp_path / name / "currents/health.py" for name in ("A", "B"))
    pairs = zip(one.read_text().splitlines(), other.read_text().splitlines(), strict=True)
    assert [pair for pair in pairs if pair[0] != pair[1]] == [('        release="A",', '        release="B",')]
    assert set(interruption.STATES["A"]) == set(interruption.STATES["B"])
    assert all(interruption.STATES["A"][key] != interruption.STATES["B"][key] for key in interruption.STATES["A"])


def test_a_kill_is_left_out_only_where_it_leaves_what_the_one_before_left():
    changed = [False, False, True, False, False, False, True, True, False]
    steps = [Step(number, "x", one) for number, one in enumerate(changed, start=1)]
    assert points(steps) == [1, 3, 4, 7, 8, 9]


def test_differences_name_the_place():
    wanted = {"files": {"/etc/a": "1", "/etc/b": "1"}, "failed": []}
    found = {"files": {"/etc/a": "2", "/etc/b": "1", "/etc/c": "1"}, "failed": []}
    assert differences(wanted, wanted) == []
    assert differences(wanted, found) == [
        "files: /etc/a is 2, after an undisturbed run 1",
        "files: /etc/c is 1, after an undisturbed run None",
    ]


def test_a_half_written_line_of_a_trace_is_not_read(tmp_path):
    (tmp_path / "trace").write_text('{"begins": "x"}\n{"num')
    assert list(lines(tmp_path / "trace")) == [{"begins": "x"}]


def test_a_release_that_lacks_a_byte_is_not_the_same(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code/app.py").write_text("x = 1\n")
    whole = host_state.release(tmp_path)
    (tmp_path / "code/app.py").write_text("")
    torn = host_state.release(tmp_path)
    assert whole["files"] == torn["files"]
    assert whole["code"] != torn["code"]
    assert whole["names"] != torn["names"]


@pytest.mark.parametrize(
    ("files", "finished"), [(["release.json"], True), ([], False), (["release.json", "UNFINISHED"], False)]
)
def test_a_release_is_finished_when_it_says_so_and_is_not_marked(tmp_path, files, finished):
    for name in files:
        (tmp_path / name).touch()
    assert host_state.is_finished(tmp_path) is finished


def test_the_page_counts_what_was_not_healed():
    good, bad = Outcome("3 app : uv | Bring", served="A", requests=9), Outcome("power", ["lost", "torn"], "B")
    text = document([Step(1, "x", True)], [1], [good, bad], "a machine")
    assert "2 interruptions, 1 not healed." in text
    assert "| 3 app : uv \\| Bring | A | 9 | 0 | yes |" in text
    assert "| power | B | 0 | 0 | **no** |" in text
    assert "\n\npower:\n\n```\nlost\ntorn\n```\n" in text, (
        "what failed has lines of its own: a table has no room for them"
    )


def test_an_interruption_that_nothing_can_follow_is_the_last_one_and_keeps_those_before_it():
    asked = []

    def kill(number):
        asked.append(number)
        if number == 2:
            raise InterruptError("the host cannot be asked")
        return Outcome(f"{number}", served="A")

    trial = SimpleNamespace(steps=[Step(number, f"task {number}", True) for number in (1, 2, 3)], kill=kill, cut=print)
    outcomes = list(attempts(trial, [1, 2, 3], [("a task", 1.0)]))
    assert asked == [1, 2]
    assert outcomes == [Outcome("1", served="A"), Outcome("2 task 2", faults=["the host cannot be asked"])]
    page = document(trial.steps, [1, 2, 3], outcomes, "a machine", left=2)
    assert "2 interruptions, 1 not healed. The last one could not be gone on from: 2 were not tried." in page


def test_nothing_of_the_project_enables_the_callback_that_kills():
    root = Path(__file__).resolve().parents[3]
    for path in (root / "ansible.cfg", root / "Makefile", root / ".config/molecule/config.yml"):
        assert "kill_after" not in path.read_text()


@pytest.mark.parametrize("task", [task for task, _ in CUTS])
def test_the_power_is_cut_in_a_task_that_there_is(task):
    role, _, name = task.partition(" : ")
    assert name in [one["name"] for path in (ROLES / role / "tasks").glob("*.yml") for one in read_yaml(path)]

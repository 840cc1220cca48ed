"""What the fire drill decides, in tables: effects, detection, recovery, the verdict, the table, the question."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from plugins.action.drill_report import pairs
from plugins.filter.drill import drill_command, drill_question
from plugins.module_utils.drill import (
    FAULTS,
    Process,
    Seen,
    are_faults,
    back_at,
    evidence,
    fault_names,
    is_noticed,
    is_whole,
    measured,
    parse_stat,
    verdict,
    victims_of,
)
from plugins.module_utils.load_generator import Row
from plugins.modules import drill_fault


def seen(workers=(11, 12, 13), main=10, invocation="a", *, states=None, started=None, oom_kills=0):
    """A service with a master and workers; `states` and `started` differ from S and the number by process."""
    parents = {main: 1, **dict.fromkeys(workers, main)} if main else {}
    processes = {
        pid: Process(pid, parent, (states or {}).get(pid, "S"), (started or {}).get(pid, pid))
        for pid, parent in parents.items()
    }
    return Seen(invocation, main, processes, oom_kills)


BEFORE = seen()


def row(seq, ended, outcome="ok", due=None):
    return Row(seq, float(seq) if due is None else due, float(seq), ended, outcome)


# Which faults


def test_without_a_choice_there_are_all_faults():
    assert fault_names() == list(FAULTS)
    assert len(FAULTS) == 8


@pytest.mark.parametrize("value", [["oom", "restart"], "oom,restart", "oom, restart"])
def test_faults_are_a_list_or_names_with_commas_in_their_order(value):
    assert fault_names(value) == ["oom", "restart"]


@pytest.mark.parametrize("value", [[], "", 3, ["oom", "oom"], {"oom": 1}, [None], "oom,,restart", [["oom"]]])
def test_other_choices_are_refused_with_what_there_is(value):
    assert not are_faults(value)
    with pytest.raises(ValueError, match="worker-kill, master-kill, restart"):
        fault_names(value)


def test_an_unknown_fault_is_named():
    with pytest.raises(ValueError, match="no such fault: meteor; there are worker-kill"):
        fault_names("oom,meteor")


def test_nothing_is_no_setting_of_faults():
    assert not are_faults(None)
    assert are_faults("oom")


def test_the_module_documents_the_faults_that_there_are():
    assert f"choices: [{', '.join(FAULTS)}]" in drill_fault.DOCUMENTATION


# What a fault does


@pytest.mark.parametrize(
    ("fault", "pids"),
    [
        ("worker-kill", [11]),
        ("worker-stop", [11]),
        ("workers-stop", [11, 12, 13]),
        ("master-kill", [10]),
        ("master-stop", [10]),
        ("service-kill", [10, 11, 12, 13]),
        ("restart", []),
        ("oom", [11]),
    ],
)
def test_each_fault_has_its_victims(fault, pids):
    assert [one.pid for one in victims_of(fault, BEFORE)] == pids


NO_FIRST = seen((12, 13))
FROZEN_FIRST = seen(states={11: "T"})
FROZEN_ALL = seen(states={11: "T", 12: "T", 13: "T"})
FROZEN_MASTER = seen(states={10: "T"})
REPLACED = seen((12, 13, 14))
REUSED_NUMBER = seen(started={11: 999})
NEW = seen((21, 22, 23), 20, "b")
DOWN = Seen("", 0, {})


@pytest.mark.parametrize(
    ("fault", "now", "shown"),
    [
        ("worker-kill", BEFORE, ""),
        ("worker-kill", NO_FIRST, "pid 11 gone"),
        ("worker-kill", REUSED_NUMBER, "pid 11 gone"),
        ("master-kill", BEFORE, ""),
        ("master-kill", DOWN, "pid 10 gone"),
        ("service-kill", NO_FIRST, ""),
        ("service-kill", DOWN, "4 processes gone"),
        ("worker-stop", BEFORE, ""),
        ("worker-stop", FROZEN_FIRST, "pid 11 in state T"),
        ("worker-stop", NO_FIRST, ""),
        ("workers-stop", FROZEN_FIRST, ""),
        ("workers-stop", FROZEN_ALL, "3 processes in state T"),
        ("master-stop", FROZEN_MASTER, "pid 10 in state T"),
        ("restart", DOWN, ""),
        ("restart", NEW, "a new start of the service"),
        ("oom", BEFORE, ""),
        ("oom", seen(oom_kills=1), "oom_kill of the unit went from 0 to 1"),
    ],
)
def test_only_what_the_fault_did_is_evidence(fault, now, shown):
    assert evidence(fault, BEFORE, now) == shown


@pytest.mark.parametrize(
    ("fault", "now", "noticed"),
    [
        ("worker-kill", NO_FIRST, False),
        ("worker-kill", REPLACED, True),
        ("worker-kill", NEW, True),
        ("worker-stop", FROZEN_FIRST, False),
        ("worker-stop", seen((11, 12, 13, 14), states={11: "T"}), False),
        ("worker-stop", NO_FIRST, False),
        ("worker-stop", REPLACED, True),
        ("worker-stop", BEFORE, True),
        ("workers-stop", seen(states={12: "T"}), False),
        ("workers-stop", seen((21, 22, 23)), True),
        ("master-stop", FROZEN_MASTER, False),
        ("master-stop", DOWN, False),
        ("master-stop", NEW, True),
        ("master-kill", DOWN, False),
        ("master-kill", BEFORE, False),
        ("master-kill", NEW, True),
        ("restart", NEW, True),
        ("service-kill", DOWN, False),
        ("service-kill", NEW, True),
        ("oom", seen(oom_kills=1), False),
        ("oom", seen((12, 13), oom_kills=1), False),
        ("oom", seen((12, 13, 14), oom_kills=1), True),
    ],
)
def test_a_fault_is_noticed_when_its_victims_are_replaced_or_the_service_is_started_anew(fault, now, noticed):
    assert is_noticed(fault, BEFORE, now) is noticed


@pytest.mark.parametrize(
    ("now", "whole"),
    [
        (BEFORE, True),
        (REPLACED, True),
        (NEW, True),
        (NO_FIRST, False),
        (FROZEN_FIRST, False),
        (FROZEN_MASTER, False),
        (DOWN, False),
        (seen((21, 22), 20, "b"), False),
    ],
)
def test_a_service_is_whole_with_its_master_and_all_workers_awake(now, whole):
    assert is_whole(BEFORE, now) is whole


def test_a_process_is_read_from_proc():
    text = "812 (a b) c) T 1 812 812 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 4 0 73210 1 2 3"
    assert parse_stat(text) == Process(812, 1, "T", 73210)
    assert parse_stat(Path("/proc/self/stat").read_text()).state == "R"


# Recovery


def test_the_first_of_three_good_answers_in_a_row_is_the_recovery():
    rows = [
        row(0, 0.1),
        row(1, 1.5, "reset"),
        row(2, 2.1),
        row(3, 3.1, "refused"),
        row(4, 4.1),
        row(5, 5.1),
        row(6, 6.1),
    ]
    assert back_at(rows, 0.5, 0.5) == 4.1


@pytest.mark.parametrize("rows", [[], [row(1, 1.1), row(2, 2.1)], [row(1, 1.1), row(2, 2.1), row(4, 4.1)]])
def test_fewer_or_answers_with_a_gap_between_them_are_none(rows):
    assert back_at(rows, 0.0, 0.0) is None


def test_requests_that_waited_through_an_outage_count_from_when_they_were_answered():
    assert back_at([row(seq, 9.0) for seq in (1, 2, 3)], 0.5, 0.5) == 9.0


def test_answers_of_the_old_processes_do_not_count_after_a_new_start():
    rows = [row(1, 1.1), row(2, 2.1), row(3, 3.1), row(4, 8.0), row(5, 8.1), row(6, 8.2)]
    assert back_at(rows, 0.5, 0.5) == 1.1
    assert back_at(rows, 6.0, 0.5) == 8.0


def test_requests_of_before_the_fault_do_not_count():
    assert back_at([row(0, 5.0), row(1, 5.1), row(2, 5.2)], 1.5, 1.5) is None


def test_requests_under_way_when_the_fault_came_count_as_lost_by_it():
    rows = [row(0, 0.1), row(1, 2.0, "reset"), row(2, 2.1, "refused"), row(3, 9.0), row(4, 4.1, "stale")]
    figures = measured(rows, 1.5)
    assert figures["outcomes"] == {"reset": 1, "refused": 1, "ok": 1, "stale": 1}
    assert (figures["requests"], figures["refused"], figures["failed"]) == (4, 1, 2)
    assert figures["longest_wait_seconds"] == 6.0


@pytest.mark.parametrize(
    ("facts", "recovered", "words"),
    [
        ((True, 1.0, 2.0, True, 0), True, "back, none lost"),
        ((True, 1.0, 2.0, True, 3), True, "back, 3 lost"),
        ((True, 0.0, 0.0, True, 0), True, "back, none lost"),
        ((False, None, None, True, 0), False, "NOT INJECTED"),
        ((True, None, 0.1, True, 0), False, "NOT NOTICED"),
        ((True, 1.0, None, True, 9), False, "NOT BACK"),
        ((True, 1.0, 2.0, False, 0), False, "NOT WHOLE"),
    ],
)
def test_the_verdict_is_the_first_thing_that_is_missing(facts, recovered, words):
    good, said = verdict(*facts)
    assert good is recovered
    assert said.startswith(words)


# What an operator reads

RESULT = {
    "fault": "worker-kill",
    "took_effect": True,
    "detected_seconds": 0.41,
    "back_seconds": 12.04,
    "requests": 60,
    "refused": 0,
    "failed": 1,
    "longest_wait_seconds": 0.39,
    "verdict": "back, 1 lost",
}


def test_the_table_has_a_line_for_each_fault_under_aligned_headings():
    never = {**RESULT, "fault": "oom", "took_effect": False, "detected_seconds": None, "back_seconds": None}
    head, first, second = pairs([RESULT, never])
    assert [head[0], first[0], second[0]] == ["fault", "worker-kill", "oom"]
    assert re.split(r" {2,}", head[1].strip()) == [
        *("took effect", "detected s", "back s", "requests", "refused", "failed", "longest wait s", "verdict")
    ]
    assert re.split(r" {2,}", first[1].strip()) == ["yes", "0.4", "12.0", "60", "0", "1", "0.4", "back, 1 lost"]
    assert re.split(r" {2,}", second[1].strip())[:3] == ["no", "-", "-"]
    assert first[1].index("back, 1") == head[1].index("verdict")


def test_a_table_without_results_is_its_headings():
    assert [label for label, _ in pairs([])] == ["fault"]


def test_the_command_repeats_what_was_asked_for():
    settings = {"drill_faults": ["oom", "restart"], "drill_rate": 9, "drill_seconds": None}
    words = shlex.split(drill_command(settings, ["one,two,"], "web a"))
    assert words[:4] == ["ansible-playbook", "-i", "one,two,", "playbooks/drill.yml"]
    assert words[4:6] == ["--limit", "web a"]
    assert words[6:] == ["-e", "drill_confirm=yes", "-e", "drill_faults=oom,restart", "-e", "drill_rate=9"]


def test_the_command_names_an_inventory_as_it_is_typed_here(tmp_path, monkeypatch):
    (tmp_path / "hosts.yml").touch()
    monkeypatch.chdir(tmp_path)
    assert " -i hosts.yml " in drill_command({}, [str(tmp_path / "hosts.yml")])


def test_the_question_says_what_would_be_done_where_and_how_to_do_it():
    text = drill_question({"drill_rate": "7", "drill_faults": "oom,restart"}, ["currents", "shop"], ["x,"])
    for words in ("currents, shop", "7 times a second", "120 s", "restart  ", "drill_confirm=yes", "timer on the host"):
        assert words in text
    assert "worker-kill" not in text


def test_the_results_can_be_written_as_json():
    assert json.loads(json.dumps(measured([row(0, 0.1)], 0.0)))["requests"] == 1

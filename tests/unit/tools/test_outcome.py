"""The output of a part must not be read as success where it is silence; the end says what failed and nothing else."""

from __future__ import annotations

import pytest

from tools.outcome import Outcome, closing, counted, failures, silently_passed, skips

GOOD = Outcome("default", 12, 0, 301.4)


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
        "WARNING  front ➜ cleanup: Executed: Missing playbook (Remove from test_sequence to suppress)\n",
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
    assert not Outcome("x", 0, 0, 1).good
    assert not Outcome("x", 5, 1, 1).good
    assert not Outcome("x", 5, 0, 1, ("Skipping, no tests found.",)).good


def test_style_has_no_tests_to_count():
    assert Outcome("lint", 0, 0, 1, counts=False).good
    assert not Outcome("lint", 0, 0, 1, ("ended with 2",), counts=False).good


def test_the_end_is_a_table_what_failed_with_its_command_and_what_was_skipped():
    bad = Outcome(
        "tunnel-that-is-long", 3, 1, 61.5, ("ended with 1",), ("FAILED a.py::test_b - E",), alone="make test ONLY=x"
    )
    empty = Outcome("front", 0, 0, 1, lost=True, skips=("[1] a.py:3: not root",), alone="make test ONLY=front")
    assert closing([GOOD, bad, empty]).splitlines() == [
        "Part                 tests  failed  seconds",
        "default                 12       0      301",
        "tunnel-that-is-long      3       1       62",
        "front                    0       0        1",
        "",
        "tunnel-that-is-long failed. Alone: make test ONLY=x",
        "  ended with 1",
        "  FAILED a.py::test_b - E",
        "",
        "front failed. Alone: make test ONLY=front",
        "  a machine was lost, which says nothing about what was tested",
        "  no test ran",
        "",
        "Skipped:",
        "  front                [1] a.py:3: not root",
        "",
        "15 passed, 2 failed",
    ]


def test_skipped_tests_are_named_with_their_reason():
    lines = ["  │ SKIPPED [1] tests/a.py:12: needs root", "SKIPPED [2] b.py:3: no", "│ SKIPPED [2] b.py:3: no"]
    assert skips(lines) == ["[1] tests/a.py:12: needs root", "[2] b.py:3: no"]


def test_the_end_of_the_output_says_why_a_scenario_failed():
    lines = [
        "  \x1b[2m│\x1b[0m E       assert 3 == 4",
        "  │ E       assert 3 == 4",
        "  │ everything else",
        "ERROR    front ➜ verify: Executed: Failed",
        "  │ ERROR tests/test_a.py::test_c - Failed: needs memory",
        "  │ FAILED tests/test_a.py::test_b - AssertionError",
        "  │ fatal: [currents]: UNREACHABLE!",
        "  │     Connection reset by peer",
        "  │ [WARNING]: and so on",
        "  │     not of it",
        "  │ currents: LOST one is stopped.",
        "  │     Kernel panic",
    ]
    assert failures(lines) == [
        "E       assert 3 == 4",
        "ERROR tests/test_a.py::test_c - Failed: needs memory",
        "FAILED tests/test_a.py::test_b - AssertionError",
        "fatal: [currents]: UNREACHABLE!",
        "    Connection reset by peer",
        "LOST one is stopped.",
        "    Kernel panic",
    ]

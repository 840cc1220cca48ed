"""What converged_unit decides, in tables: from the record of inputs and systemd's properties to the steps."""

from __future__ import annotations

import os
import time

import pytest

from plugins.module_utils.unit_plan import Step, Wanted, changed_inputs, is_stale, normalised, parse_show, plan, unmet
from plugins.modules.converged_unit import changed_after
from tests.unit.plugins.unit_states import APP, CRASHING, DOWN, FAILED, NEW, SOCKET, UP, record

# The record of inputs


def test_inputs_that_are_as_recorded_are_no_change():
    files = {"/etc/app/app.env": b"A=1", "/etc/a file": b""}
    assert changed_inputs(record(files), files.__getitem__) == []


def test_a_changed_and_a_vanished_input_are_named_in_order():
    def read(path):
        if path == "/gone":
            raise FileNotFoundError(path)
        return b"now"

    lines = record({"/gone": b"x", "/same": b"now", "/other": b"then"})
    assert changed_inputs(lines, read) == ["/gone", "/other"]


def test_sha256sums_mark_of_an_escaped_name_is_no_change():
    assert changed_inputs("\\" + record({"/a": b"x"}), lambda _: b"x") == []


def test_lines_that_are_no_record_are_passed_over():
    assert changed_inputs("\nnonsense\n", lambda _: b"") == []


# Properties


def test_show_is_parsed_with_equals_signs_in_values():
    assert parse_show("A=1\nB=\nC=x=y\nnoise\n") == {"A": "1", "B": "", "C": "x=y"}


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("MemoryMax", "800M", str(800 * 1024**2)),
        ("MemoryMax", "1G", str(1024**3)),
        ("MemoryMax", 1024, "1024"),
        ("MemoryHigh", "infinity", "infinity"),
        ("TasksMax", "512", "512"),
        ("TasksMax", 512, "512"),
        ("NoNewPrivileges", True, "yes"),
        ("NoNewPrivileges", False, "no"),
        ("KillSignal", 1, "1"),
        ("User", "1G", "1G"),
    ],
)
def test_values_are_compared_in_the_form_that_systemd_shows(name, value, text):
    assert normalised(name, value) == text


def test_properties_that_systemd_holds_are_met():
    shown = {"MemoryMax": str(800 * 1024**2), "NoNewPrivileges": "yes", "Restart": "always", "TasksMax": "512"}
    asked = {"MemoryMax": "800M", "NoNewPrivileges": True, "Restart": "always", "TasksMax": 512}
    assert unmet(asked, shown) == []


def test_properties_that_systemd_does_not_hold_are_named_with_both_values():
    assert unmet({"MemoryMax": "800M", "Restart": "always"}, {"MemoryMax": "infinity"}) == [
        "MemoryMax is infinity, asked for 800M",
        "Restart is unknown, asked for always",
    ]


@pytest.mark.parametrize(
    ("shown", "stale"),
    [
        ({"NeedDaemonReload": "no", "LoadState": "loaded"}, False),
        ({"NeedDaemonReload": "yes", "LoadState": "loaded"}, True),
        ({"NeedDaemonReload": "no", "LoadState": "not-found"}, True),
    ],
)
def test_systemd_is_behind_when_it_says_so_or_knows_no_such_unit(shown, stale):
    assert is_stale(shown) is stale


def test_only_files_younger_than_the_start_count(tmp_path):
    for name, age in (("old", 500), ("young", 10)):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (time.time() - age, time.time() - age))
    started = str(int((time.monotonic() - 100) * 1e6))
    paths = [str(tmp_path / name) for name in ("old", "young", "absent")]
    assert changed_after(paths, started) == [str(tmp_path / "young")]


# Decisions


@pytest.mark.parametrize(
    ("app", "sock", "drift", "steps"),
    [
        (UP, UP, {}, []),
        (CRASHING, UP, {}, []),
        (UP, UP, {APP: ["/a", "/b"]}, [("restart", APP, "/a, /b changed")]),
        (CRASHING, UP, {APP: ["/a"]}, [("restart", APP, "/a changed")]),
        (DOWN, UP, {}, [("start", APP, "was not running")]),
        (FAILED, UP, {}, [("start", APP, "was not running")]),
        (
            UP,
            UP,
            {SOCKET: ["/s"]},
            [
                ("stop", APP, "its socket changes"),
                ("restart", SOCKET, "/s changed"),
                ("start", APP, "its socket changed"),
            ],
        ),
        (DOWN, UP, {SOCKET: ["/s"]}, [("restart", SOCKET, "/s changed"), ("start", APP, "its socket changed")]),
        (
            UP,
            DOWN,
            {},
            [
                ("stop", APP, "it runs without its socket"),
                ("start", SOCKET, "was not listening"),
                ("start", APP, "was not running"),
            ],
        ),
        (DOWN, DOWN, {}, [("start", SOCKET, "was not listening"), ("start", APP, "was not running")]),
        (
            UP,
            FAILED,
            {APP: ["/a"]},
            [
                ("stop", APP, "it runs without its socket"),
                ("start", SOCKET, "was not listening"),
                ("start", APP, "/a changed"),
            ],
        ),
        (
            NEW,
            NEW,
            {},
            [
                ("enable", SOCKET, "is new"),
                ("enable", APP, "is new"),
                ("start", SOCKET, "was not listening"),
                ("start", APP, "was not running"),
            ],
        ),
    ],
    ids=[
        "all is well",
        "crashing, nothing changed",
        "inputs changed",
        "crashing, inputs changed",
        "not running",
        "failed",
        "socket changed",
        "socket changed, service down",
        "socket down under a running service",
        "both down",
        "socket failed and inputs changed",
        "first run",
    ],
)
def test_a_service_with_a_socket(app, sock, drift, steps):
    assert plan(Wanted(APP, SOCKET), {APP: app, SOCKET: sock}, drift) == [Step(*step) for step in steps]


@pytest.mark.parametrize(
    ("wanted", "state", "drift", "steps"),
    [
        (Wanted(APP), UP, {}, []),
        (Wanted(APP), UP, {APP: ["/a"]}, [("restart", APP, "/a changed")]),
        (Wanted(APP), DOWN, {APP: []}, [("start", APP, "was not running")]),
        (Wanted(APP, enabled=False), UP, {}, [("disable", APP, "is enabled")]),
        (Wanted(APP, enabled=False), {**UP, "UnitFileState": "disabled"}, {}, []),
        (Wanted(APP), {**UP, "UnitFileState": "disabled"}, {}, [("enable", APP, "is disabled")]),
        (Wanted(APP), {**UP, "UnitFileState": "static"}, {}, []),
        (Wanted(APP, enabled=False), {**UP, "UnitFileState": "static"}, {}, []),
        (Wanted(APP), {**UP, "UnitFileState": "generated"}, {}, []),
        (Wanted(APP), {**UP, "UnitFileState": "alias"}, {}, []),
        (Wanted(APP, state="stopped"), UP, {APP: ["/a"]}, [("stop", APP, "switched off")]),
        (Wanted(APP, state="stopped"), CRASHING, {}, [("stop", APP, "switched off")]),
        (Wanted(APP, state="stopped", enabled=False), {**DOWN, "UnitFileState": "disabled"}, {}, []),
    ],
)
def test_a_service_without_a_socket(wanted, state, drift, steps):
    assert plan(wanted, {APP: state}, drift) == [Step(*step) for step in steps]


def test_the_socket_goes_first_when_both_are_switched_off():
    # Else the next visitor's connection would start the service again.
    steps = plan(Wanted(APP, SOCKET, "stopped", False), {APP: UP, SOCKET: UP}, {})
    assert [(step.action, step.unit) for step in steps] == [
        ("disable", SOCKET),
        ("disable", APP),
        ("stop", SOCKET),
        ("stop", APP),
    ]

"""docs/operations.md says what the code does: names, reasons, numbers."""

from __future__ import annotations

import re
import types

import pytest

from sitekeeper import guard, master, verdict, watchdog
from sitekeeper.board import PLANNED, Board, Cell, Leaving
from sitekeeper.operations import metric_lines
from tests.unit.rendering import REPOSITORY, group_vars, options

TEXT = (REPOSITORY / "docs/operations.md").read_text()
PROSE = " ".join(TEXT.split())


def test_every_metric_is_described_and_every_described_one_is_there():
    board = Board(1)
    board.free_row()[Cell.PID] = 1
    numbers = dict.fromkeys(("current_bytes", "high_bytes", "max_bytes", "peak_bytes"), 1)
    worker = dict.fromkeys(("pid", "rss_bytes", "pss_bytes", "age_seconds", "requests", "in_flight"), 1)
    facts = {"workers": [worker], "group": numbers | {"events": {"high": 1}}, "worker_exits": {"hang": 1}}
    operations = types.SimpleNamespace(
        master=types.SimpleNamespace(board=board), memory=lambda: facts, live=lambda: (200, {}), ready=lambda: (200, {})
    )
    made = {words.split()[2].removeprefix("sitekeeper_") for words in metric_lines(operations) if " HELP " in words}
    table = TEXT.partition("## Metrics")[2].partition("| Reason")[0]
    assert set(re.findall(r"`([a-z_]+)(?:\{\w+\})?`(?=[^|\n]*\| (?:gauge|counter))", table)) == made


def test_every_reason_of_an_exit_is_described():
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| (yes)? ?\|$", TEXT, re.MULTILINE)
    assert dict(rows) == {
        why.name.lower(): "" if why in PLANNED else "yes" for why in Leaving if why is not Leaving.SERVING
    }


def test_the_settings_have_their_defaults():
    table = TEXT.partition("## Settings")[2].partition("##")[0]
    known = {name: one.get("default") for role in ("app", "service", "monitor") for name, one in options(role).items()}
    known["monitor_operations_socket"] = "/run/NAME/operations.sock"
    for names, defaults in re.findall(r"^\| (`\w+`(?:, `\w+`)?) \| (`[^|]+`) \|", table, re.MULTILINE):
        for name, default in zip(names.split(", "), defaults.split(", "), strict=True):
            wired = group_vars().get(name.strip("`"), known[name.strip("`")])
            assert str(wired if "{{" not in str(wired) else known[name.strip("`")]) == default.strip("`"), name


@pytest.mark.parametrize(
    "words",
    [
        f"(L x {verdict.PLANNED_PART:g} - memory of the master) / app_workers",
        f"loaded plus {verdict.LEAST_GROWTH >> 20} MiB",
        f"Above {verdict.PAUSE_FACTOR:g} times its share",
        f"grown by more than {verdict.NOISE >> 20} MiB since another one began to leave",
        f"use more than L x {verdict.PLANNED_PART:g}: looked at every {guard.QUICK_SECONDS:g} s meanwhile, "
        f"and for at most {guard.YIELD_SECONDS:g} s",
        f"slows the service down for {watchdog.THROTTLED_SECONDS:g} s",
        f"its other requests get {guard.DRAIN_SECONDS:g} s to finish",
        f"every {watchdog.LONGEST_INTERVAL_SECONDS:g} s, through",
        f"with a limit of {watchdog.PROBE_SECONDS:g} s",
        f"after 1, 2, 4, ... {verdict.LONGEST_PAUSE_SECONDS:g} s",
    ],
)
def test_the_numbers_are_those_of_the_code(words):
    assert words in PROSE


def test_a_crash_loop_is_what_it_says():
    assert (master.LOOP_DEATHS, master.LOOP_SECONDS) == (5, 60)
    assert "Five unplanned exits within a minute are a crash loop" in PROSE

"""The unit that watches a release, read as systemd reads it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from siterelease.settings import Settings
from tests.unit.rendering import parse_unit, render, unit_root

UNIT = "currents-watch.service"
PROGRAM = "/usr/local/lib/sitekeeper/release"


@pytest.fixture
def unit() -> str:
    return render("release", "watch.service.j2", wired=True)


def test_systemd_finds_no_fault_in_it(tmp_path, verify, unit):
    assert verify(unit_root(tmp_path, {UNIT: unit}, (PROGRAM,)), UNIT) == ""


def test_a_boot_goes_on_with_a_watch_that_was_not_over(unit):
    read = parse_unit(unit)
    site = SimpleNamespace(root=Path("/srv/currents"))
    assert Settings.watched.fget(site) == Path(read["Unit.ConditionPathExists"][0])
    assert read["Install.WantedBy"] == ["multi-user.target"]
    assert read["Service.ExecStart"] == [f"{PROGRAM} currents watch"]


def test_a_watch_that_dies_begins_anew_but_not_for_ever(unit):
    read = parse_unit(unit)
    assert read["Service.Restart"] == ["on-failure"]
    burst, within, pause = (
        int(read[name][0]) for name in ("Unit.StartLimitBurst", "Unit.StartLimitIntervalSec", "Service.RestartSec")
    )
    assert within > burst * (pause + 5), "or the limit is never met"

"""The bench keeps each part's last result, and its page shows what is kept."""

from __future__ import annotations

import json
import types

import pytest

from tools import bench
from tools.bench_part import BenchError


def part(title, failures=(), error=None):
    def measure():
        if error:
            raise BenchError(error)
        return {"machine": "a computer", "figure": 7}

    return types.SimpleNamespace(
        TITLE=title, measure=measure, page=lambda one: [f"figure {one['figure']}"], failures=lambda _: list(failures)
    )


@pytest.fixture
def parts(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "PARTS", known := {"overhead": part("Cost"), "recovery": part("Faults")})
    monkeypatch.setattr(bench, "KEPT", tmp_path / "results/bench.json")
    monkeypatch.setattr(bench, "PAGE", tmp_path / "results/bench.md")
    return known


def test_a_part_leaves_the_others_as_they_were(parts):
    old = {"recovery": {"date": "2026-01-01", "figure": 1}}
    new = bench.merged(old, "overhead", {"figure": 2}, "2026-02-02")
    assert list(new) == ["overhead", "recovery"], "in the order of the parts"
    assert new["recovery"] == old["recovery"]
    assert new["overhead"] == {"command": "make bench ARGS=overhead", "date": "2026-02-02", "figure": 2}
    assert bench.merged(new, "overhead", {"figure": 3}, "2026-03-03")["overhead"]["figure"] == 3


def test_without_a_name_all_are_measured_and_kept(parts, capsys):
    assert bench.main([]) == 0
    assert set(json.loads(bench.KEPT.read_text())) == {"overhead", "recovery"}
    assert bench.PAGE.read_text() == bench.render(json.loads(bench.KEPT.read_text()))
    assert "## Cost" in bench.PAGE.read_text()
    assert "figure 7" in bench.PAGE.read_text()
    assert "all as promised" in capsys.readouterr().out


def test_with_a_name_only_that_one_is_measured(parts):
    assert bench.main(["recovery"]) == 0
    assert set(json.loads(bench.KEPT.read_text())) == {"recovery"}
    assert "## Cost\n\nNot measured yet: `make bench ARGS=overhead`." in bench.PAGE.read_text()


def test_a_broken_promise_is_kept_shown_and_fails(parts, capsys):
    parts["recovery"] = part("Faults", ["reboot: not back"])
    assert bench.main(["recovery"]) == 1
    assert "NOT AS PROMISED: recovery: reboot: not back" in capsys.readouterr().out
    assert "**Not as promised**: reboot: not back" in bench.PAGE.read_text()


def test_what_cannot_be_measured_changes_nothing_that_is_kept(parts, capsys):
    assert bench.main(["overhead"]) == 0
    before = bench.KEPT.read_text()
    parts["recovery"] = part("Faults", error="no machine")
    assert bench.main(["recovery"]) == 2
    assert "no machine" in capsys.readouterr().err
    assert bench.KEPT.read_text() == before


def test_an_unknown_part_is_refused_with_those_that_there_are(parts, capsys):
    with pytest.raises(SystemExit) as end:
        bench.main(["recvery"])
    assert end.value.code == 2
    assert "there are overhead, recovery" in capsys.readouterr().err

"""Which releases there are, which are good, what is deleted, and that a link is never missing."""

from __future__ import annotations

import fcntl
import json
import os

import pytest

from siterelease.releases import BAD, LIVE, UNFINISHED, digest


def live(releases, name, moment):
    releases.write(name, LIVE, {"last": moment})


def test_states(releases, build):
    for name in ("current", "good", "bad", "unproven", "unfinished"):
        build(name)
    for name, moment in (("good", 1), ("bad", 2), ("current", 3)):
        live(releases, name, moment)
    releases.point("current", "current")
    releases.write("bad", BAD, {"why": "it leaks"})
    (releases.path("unfinished") / UNFINISHED).touch()
    assert {one.name: one.state for one in releases.all()} == {name: name for name in ("current", "good", "bad")} | {
        "unproven": "unproven",
        "unfinished": "unfinished",
    }
    assert releases.good() == ["good"]
    assert releases.look("bad").why == "it leaks"


def test_a_mark_that_cannot_be_read_still_marks(releases, build):
    build("a")
    live(releases, "a", 1)
    (releases.path("a") / BAD).write_text("{")
    assert releases.look("a").state == "bad"


def test_good_ones_are_ordered_by_when_they_were_live_last(releases, build):
    for name, moment in (("a", 3), ("b", 9), ("c", 5)):
        build(name)
        live(releases, name, moment)
    assert releases.good() == ["b", "c", "a"]


def test_pruning_counts_good_ones_only_and_keeps_two_bad_ones_for_a_look(releases, build):
    for number in range(1, 6):
        build(f"good{number}")
        live(releases, f"good{number}", number)
        build(f"bad{number}")
        live(releases, f"bad{number}", number)
        releases.write(f"bad{number}", BAD, {"why": ""})
    build("unproven")
    build("next")
    releases.point("current", "good5")
    gone = releases.prune(2, ["good1"])
    assert sorted(gone) == ["bad1", "bad2", "bad3", "good2", "good3", "unproven"]
    assert {one.name for one in releases.all()} == {"good5", "good4", "good1", "bad5", "bad4", "next"}


def test_a_link_is_replaced_in_one_step(releases, build, monkeypatch):
    build("a")
    build("b")
    releases.point("current", "a")
    (releases.root / ".current.new").symlink_to("left over")
    releases.point("current", "b")
    assert releases.pointed("current") == "b"
    monkeypatch.setattr(type(releases.root), "rename", lambda *_: (_ for _ in ()).throw(OSError("no room")))
    with pytest.raises(OSError, match="no room"):
        releases.point("current", "a")
    assert releases.pointed("current") == "b"


def test_the_journal_keeps_order_drops_the_oldest_and_survives_damage(releases, monkeypatch):
    monkeypatch.setattr("siterelease.releases.KEPT_RECORDS", 3)
    for number in range(5):
        releases.record(action="deploy", release=str(number))
    with releases.journal.open("a") as file:
        file.write('{"half a li')
    assert [one["release"] for one in releases.records()] == ["2", "3", "4"]
    releases.record(action="deploy", release="5")
    assert [json.loads(line)["release"] for line in releases.journal.read_text().splitlines()] == ["3", "4", "5"]


def test_what_a_release_starts_with_is_told_apart(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "a.py").write_text("1")
    file = tmp_path / "file"
    seen = {digest([package, file])}
    file.write_text("x")
    seen.add(digest([package, file]))
    (package / "a.py").write_text("2")
    seen.add(digest([package, file]))
    (package / "b.py").write_text("")
    seen.add(digest([package, file]))
    assert len(seen) == 4
    (package / "notes.txt").write_text("no code")
    assert digest([package, file]) in seen


def test_who_records_something_waits_for_another_who_does(releases, monkeypatch):
    """The watch does so while a deploy is at work: one of the two lines would be lost."""
    refused = []

    def write(path, text):
        handle = os.open(releases.root, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            refused.append(path.name)
        finally:
            os.close(handle)

    monkeypatch.setattr("siterelease.releases.replace", write)
    releases.record(action="deploy")
    assert refused == ["deploys.jsonl"]

"""The directory of releases: their ids, which are complete, which are pruned, and the link to the current one."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from plugins.modules.app_release import release_id, to_prune
from tests.polling import PATIENCE_SECONDS
from tests.unit.plugins.release_tree import finished, releases_with

pytestmark = pytest.mark.usefixtures("as_anybody")


# Ids


def test_an_id_is_made_of_its_inputs_only():
    assert release_id("v1", {"a": 1, "b": [2]}) == release_id("v1", {"b": [2], "a": 1})
    assert release_id("v1", {"a": 1}) != release_id("v1", {"a": 2})


@pytest.mark.parametrize(
    ("label", "start"),
    [
        ("v1.4.0", "v1.4.0-"),
        ("feature/login", "feature-login-"),
        ("../../etc", "etc-"),
        ("--rf", "rf-"),
        ("", "code-"),
        ("...", "code-"),
        ("x" * 200, "x" * 40 + "-"),
    ],
)
def test_an_id_is_a_plain_file_name_whatever_the_label(label, start):
    name = release_id(label, {})
    assert name.startswith(start)
    assert "/" not in name
    assert not name.startswith((".", "-"))
    assert len(name) <= 53


# Pruning


def test_pruning_leaves_the_newest_and_whatever_must_stay():
    rng = random.Random(20)
    for _ in range(500):
        made = {f"r{n}": rng.choice([rng.random(), 0.5]) for n in range(rng.randrange(12))}
        keep, never = rng.randrange(-1, 8), rng.sample([*made, "absent"], k=min(2, len(made)))
        gone = to_prune(made, keep, never)
        left = set(made) - set(gone)
        assert len(set(gone)) == len(gone)
        assert set(gone) <= set(made)
        assert not set(gone) & set(never)
        assert len(left) >= min(max(keep, 1), len(made))
        assert len(left - set(never)) <= max(keep, 1)
        if gone and left - set(never):
            assert min(made[name] for name in left - set(never)) >= max(made[name] for name in gone)


def test_unfinished_releases_are_pruned_and_strange_files_left_alone(tmp_path):
    releases = releases_with(tmp_path, keep=2)
    for age, name in enumerate(["new", "old", "older", "oldest"]):
        finished(releases, name, age)
    (finished(releases, "broken") / "UNFINISHED").write_text("")
    (releases.directory / "note.txt").write_text("mine")
    (releases.directory / "link").symlink_to("new")
    assert sorted(releases.prune(["new", "oldest"])) == ["broken", "older"]
    assert {p.name for p in releases.directory.iterdir()} == {"new", "old", "oldest", "note.txt", "link"}


@pytest.mark.parametrize("harm", ["UNFINISHED", "release.json", "venv/bin/python"])
def test_a_release_is_complete_only_with_all_its_marks(tmp_path, harm):
    releases = releases_with(tmp_path)
    release = finished(releases, "r")
    assert releases.complete("r")
    (release / harm).write_text("") if harm == "UNFINISHED" else (release / harm).unlink()
    assert not releases.complete("r")


def test_a_release_whose_interpreter_went_with_an_upgrade_is_not_complete(tmp_path):
    releases = releases_with(tmp_path)
    python = finished(releases, "r") / "venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/usr/bin/python3.0")
    assert not releases.complete("r")


# Switching


def test_current_is_replaced_in_one_step_and_is_there_all_the_time(tmp_path):
    releases = releases_with(tmp_path)
    for name in ("a", "b"):
        finished(releases, name)
    releases.point(releases.link, "a")
    stop, missing = threading.Event(), []

    def watch():
        while not stop.is_set():
            if not (releases.link / "release.json").exists():
                missing.append(1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for number in range(200):
        releases.point(releases.link, "ab"[number % 2])
    stop.set()
    watcher.join(PATIENCE_SECONDS)
    assert missing == []
    assert releases.current() == "b"
    assert releases.link.readlink() == Path("releases/b")


def test_a_switch_that_fails_at_its_last_step_leaves_current_as_it_was(tmp_path, monkeypatch):
    releases = releases_with(tmp_path)
    for name in ("a", "b"):
        finished(releases, name)
    releases.point(releases.link, "a")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space"):
        releases.point(releases.link, "b")
    assert releases.current() == "a", "whoever comes between two steps would find nothing"


def test_a_switch_passes_over_what_an_interrupted_one_left(tmp_path):
    releases = releases_with(tmp_path)
    (releases.root / ".current.new").symlink_to("releases/lost")
    finished(releases, "a")
    releases.point(releases.link, "a")
    assert releases.current() == "a"
    assert not (releases.root / ".current.new").is_symlink()


def test_without_a_link_nothing_is_current(tmp_path):
    assert releases_with(tmp_path).current() == ""

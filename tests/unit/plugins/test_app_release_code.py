"""Code that lies on the controller: what of it counts as a change, and what of it is packed."""

from __future__ import annotations

import gzip
import io
import os
import socket
import tarfile
from pathlib import Path

import pytest

from plugins.action.app_release import pack
from plugins.module_utils.code_tree import digest, excluded, tree


def names(root, patterns=()):
    return [name for name, _ in tree(root, patterns)]


def test_times_and_owners_do_not_change_the_digest(code):
    before = digest(code)
    os.utime(code / "app.py", (1, 1))
    (code / "app.py").chmod(0o600)
    if os.geteuid() == 0:
        os.chown(code / "app.py", 65534, 65534)
    assert digest(code) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "app.py").write_text("app = 2\n"),
        lambda root: (root / "app.py").chmod(0o755),
        lambda root: (root / "app.py").rename(root / "main.py"),
        lambda root: (root / "new.py").write_text(""),
        lambda root: (root / "link").symlink_to("app.py"),
        lambda root: (root / "app.py").unlink(),
    ],
    ids=["content", "executable bit", "name", "new file", "new link", "removed file"],
)
def test_what_the_app_would_notice_changes_the_digest(code, change):
    before = digest(code)
    change(code)
    assert digest(code) != before


def test_a_link_counts_by_where_it_leads(code):
    (code / "link").symlink_to("app.py")
    before = digest(code)
    (code / "link").unlink()
    (code / "link").symlink_to("static")
    assert digest(code) != before


def test_names_and_contents_cannot_be_shifted_into_each_other(tmp_path):
    for directory, name, content in (("one", "a", "bc"), ("two", "ab", "c")):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / name).write_text(content)
    assert digest(tmp_path / "one") != digest(tmp_path / "two")


def test_a_socket_that_a_running_app_left_is_no_code(code, monkeypatch):
    before = digest(code)
    monkeypatch.chdir(code)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("app.sock")
        assert digest(code) == before


def test_shared_paths_do_not_count_but_their_namesakes_elsewhere_do(code):
    (code / "data").mkdir()
    (code / "data" / "app.db").write_text("1")
    before = digest(code, [], ["data"])
    (code / "data" / "app.db").write_text("2")
    assert digest(code, [], ["data"]) == before
    (code / "lib" / "data").mkdir(parents=True)
    (code / "lib" / "data" / "load.py").write_text("")
    assert digest(code, [], ["data"]) != before


@pytest.mark.parametrize(
    ("relative", "patterns", "answer"),
    [
        ("app.pyc", ["*.pyc"], True),
        ("a/__pycache__/b.py", ["__pycache__"], True),
        ("docs/internal/plan.md", ["docs/internal/*"], True),
        (".env", [".env"], True),
        ("environment.py", [".env"], False),
        ("app.py", [], False),
    ],
)
def test_patterns_hold_for_names_at_any_depth_and_for_whole_paths(relative, patterns, answer):
    assert excluded(relative, patterns) is answer


def test_excluded_directories_are_not_entered(code):
    (code / ".venv" / "lib").mkdir(parents=True)
    (code / ".venv" / "lib" / "x.py").write_text("")
    assert names(code, [".venv"]) == ["app.py", "static/style.css"]
    assert digest(code, [".venv"]) != digest(code)


def test_a_link_to_a_directory_stays_a_link(code):
    (code / "assets").symlink_to("static")
    assert "assets" in names(code)
    assert "assets/style.css" not in names(code)


def test_a_packed_file_keeps_its_time_and_gets_root_and_plain_modes(code, tmp_path):
    (code / "app.py").chmod(0o600)
    os.utime(code / "app.py", (1_600_000_000, 1_600_000_000))
    (code / "run.sh").write_text("#!/bin/sh\n")
    (code / "run.sh").chmod(0o4711)
    pack(code, [], tmp_path / "cache" / "code.tar.gz")
    with tarfile.open(tmp_path / "cache" / "code.tar.gz") as tar:
        members = {member.name: member for member in tar}
    assert members["app.py"].mtime == 1_600_000_000
    assert {(m.uid, m.gid, m.uname, m.gname) for m in members.values()} == {(0, 0, "root", "root")}
    assert (members["app.py"].mode, members["run.sh"].mode) == (0o644, 0o755)
    assert set(members) == {"app.py", "run.sh", "static/style.css"}


def test_a_packed_file_has_its_name_only_when_all_of_it_is_on_disk(code, tmp_path, monkeypatch):
    seen, real = [], Path.rename

    def rename(path, target):
        seen.append(gzip.decompress(path.read_bytes()))
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    pack(code, [], tmp_path / "code.tar.gz")
    with tarfile.open(fileobj=io.BytesIO(seen[0])) as tar:
        assert len(tar.getnames()) == 2


def test_a_failed_packing_leaves_nothing_behind(code, tmp_path):
    with pytest.raises(OSError, match="too long"):
        pack(code, [], tmp_path / "cache" / ("x" * 300))
    assert list((tmp_path / "cache").iterdir()) == []

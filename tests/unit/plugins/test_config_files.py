"""config_files on a directory of ours, as whoever runs the tests."""

from __future__ import annotations

import grp
import json
import os
import pwd
from types import SimpleNamespace

import pytest
from ansible.module_utils.testing import patch_module_args

from plugins.modules import config_files

MINE = {"owner": pwd.getpwuid(os.geteuid()).pw_name, "group": grp.getgrgid(os.getegid()).gr_name}


@pytest.fixture
def host(tmp_path, capsys, monkeypatch):
    """A directory, and a way to run the module with one file in it."""
    path = tmp_path / "etc" / "app.env"
    path.parent.mkdir()
    # Where Ansible collects what it is about to install.
    temporary = tmp_path / "temporary"
    temporary.mkdir()

    def run(content="A=1\n", mode="0640", check=False, **more):
        words = {
            "directories": more.pop("directories", []),
            "files": [{"path": str(path), "content": content, "mode": mode, **MINE, **more}],
            "_ansible_check_mode": check,
            "_ansible_remote_tmp": str(temporary),
        }
        with patch_module_args(words), pytest.raises(SystemExit):
            config_files.main()
        return json.loads(capsys.readouterr().out)

    return SimpleNamespace(run=run, path=path, top=tmp_path)


def mode_of(path):
    return path.stat().st_mode & 0o7777


def test_directories_and_files_are_made_with_their_modes_and_a_second_run_changes_nothing(host):
    directory = {"path": str(host.top / "new" / "deep"), "mode": "0750", **MINE}
    first = host.run(directories=[directory])
    assert (first["changed"], first["written"]) == (True, [str(host.path)])
    assert host.path.read_text() == "A=1\n"
    assert mode_of(host.path) == 0o640
    assert mode_of(host.top / "new" / "deep") == 0o750
    second = host.run(directories=[directory])
    assert (second["changed"], second["written"], second["diff"]) == (False, [], [])


def test_a_reader_sees_the_old_file_or_the_new_one_and_never_a_part(host):
    host.path.write_text("old")
    # Without a buffer, which would hold the old text whatever becomes of the file.
    with host.path.open("rb", buffering=0) as reader:
        assert host.run("new")["changed"]
        assert reader.read() == b"old"
    assert host.path.read_text() == "new"
    assert [path.name for path in host.path.parent.iterdir()] == ["app.env"]


def test_the_difference_is_told_with_the_name_of_the_file(host):
    host.path.write_text("A=0\n")
    (diff,) = host.run()["diff"]
    assert (diff["before"], diff["after"], diff["before_header"]) == ("A=0\n", "A=1\n", str(host.path))


def test_a_file_that_its_own_program_refuses_is_not_installed(host):
    host.path.write_text("A=0\n")
    result = host.run("A=bad\n", validate="sh -c 'echo it is bad >&2; exit 1' %s")
    assert result["failed"]
    assert f"{host.path} was left as it was" in result["msg"]
    assert "it is bad" in result["msg"]
    assert host.path.read_text() == "A=0\n"


def test_the_program_sees_the_whole_new_file_before_it_is_installed_and_nobody_else_does(host):
    seen = host.top / "seen"
    program = host.top / "check"
    program.write_text(f'#!/bin/sh\ncat "$1" >{seen}; stat -c %a "$1" >>{seen}; cat {host.path} >>{seen}\n')
    program.chmod(0o755)
    host.path.write_text("A=0\n")
    assert host.run("A=2\n", mode="0644", validate=f"{program} %s")["changed"]
    assert seen.read_text() == "A=2\n600\nA=0\n"
    assert mode_of(host.path) == 0o644


def test_a_mode_that_somebody_loosened_is_put_right_without_writing_the_file_anew(host):
    host.run(mode="0600")
    host.path.chmod(0o644)
    result = host.run(mode="0600")
    assert (result["changed"], result["written"]) == (True, [])
    assert mode_of(host.path) == 0o600


def test_a_directory_that_is_there_gets_the_mode_that_is_asked_for(host):
    host.path.parent.chmod(0o777)
    assert host.run(directories=[{"path": str(host.path.parent), "mode": "0750", **MINE}])["changed"]
    assert mode_of(host.path.parent) == 0o750


def test_check_mode_tells_what_would_change_and_changes_nothing(host):
    host.path.write_text("A=0\n")
    host.path.chmod(0o600)
    directory = {"path": str(host.top / "new"), "mode": "0750", **MINE}
    result = host.run(check=True, directories=[directory])
    assert (result["changed"], result["written"]) == (True, [str(host.path)])
    assert (host.path.read_text(), mode_of(host.path)) == ("A=0\n", 0o600)
    assert not (host.top / "new").exists()


def test_check_mode_knows_that_an_earlier_task_would_have_made_user_and_directory(host):
    result = host.run(check=True, path=str(host.top / "gone" / "file"), owner="nobody-of-this-name")
    assert result["changed"]
    assert "failed" not in result


def test_an_empty_file_is_made_where_none_is(host):
    assert host.run("")["written"] == [str(host.path)]
    assert host.path.read_text() == ""
    assert not host.run("")["changed"]

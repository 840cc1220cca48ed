"""The controller's half of app_release as a whole: what it asks of the host, and what it sends there."""

from __future__ import annotations

import base64
import io
import os
import stat
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from plugins.action import app_release
from plugins.action.app_release import ActionModule


@pytest.fixture
def action(code, tmp_path, monkeypatch):
    """The action with a host that is asked, and told, but not there."""
    monkeypatch.setattr(app_release, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(app_release, "INLINE_BYTES", 0)
    monkeypatch.setattr(ActionBase, "run", lambda *_: {})
    made = object.__new__(ActionModule)
    asked, sent = [], []

    def on_host(options, task_vars):
        asked.append(options)
        return {"changed": True, "need_archive": made.host_lacks_it and not {"archive", "archive_data"} & {*options}}

    made.host_lacks_it, made.asked, made.sent = True, asked, sent
    made._task = SimpleNamespace(
        check_mode=False, args={"source_type": "directory", "source": str(code), "root": "/srv/app", "exclude": []}
    )
    shell = SimpleNamespace(tmpdir="/remote", join_path=os.path.join)
    made._connection = SimpleNamespace(_shell=shell)
    made._on_host = on_host
    made._transfer_file = lambda source, target: sent.append((source, target))
    made._make_tmp_path = made._remove_tmp_path = lambda *_: None
    return made


def test_code_is_sent_only_to_a_host_that_lacks_it(action):
    action.run()
    assert [target for _, target in action.sent] == ["/remote/archive.tar.gz"]
    assert action.asked[-1]["archive"] == "/remote/archive.tar.gz"
    action.host_lacks_it = False
    action.run()
    assert len(action.sent) == 1
    assert action.asked[-1]["digest"] == action.asked[0]["digest"]


def test_little_code_goes_along_with_the_question(action, monkeypatch):
    monkeypatch.setattr(app_release, "INLINE_BYTES", 100_000)
    action.run()
    (asked,) = action.asked
    assert action.sent == []
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(asked["archive_data"]))) as tar:
        assert tar.extractfile("app.py").read() == b"app = 1\n"


def test_every_directory_made_on_the_host_is_removed(action, monkeypatch):
    made, removed = [], []

    def make():
        made.append(f"/remote/{len(made)}")
        action._connection._shell.tmpdir = made[-1]

    action._make_tmp_path, action._remove_tmp_path = make, removed.append
    # What Ansible's own class does first.
    monkeypatch.setattr(ActionBase, "run", lambda self, *_: make() if self._early_needs_tmp_path() else None)
    action.run()
    assert made == removed == ["/remote/0"]


def test_code_of_a_checkout_says_from_what_commit_it_is(action, code, monkeypatch):
    asked = []
    monkeypatch.setattr(app_release, "commit_of", lambda *words: asked.append(words) or "abc-dirty")
    action._task.args |= {"exclude": ["*.pyc"], "shared": ["app.db"]}
    action.run()
    assert action.asked[-1]["commit"] == "abc-dirty"
    assert asked == [(code, ["*.pyc", "app.db"])]


def test_check_mode_sends_nothing(action):
    action._task.check_mode = True
    assert action.run()["changed"] is True
    assert action.sent == []


def test_code_on_the_host_needs_nothing_of_the_controller(action):
    action._task.args.update(source_type="host_path", source="/home/me/app")
    action.run()
    assert action.asked == [{"root": "/srv/app", "exclude": [], "host_path": "/home/me/app", "label": "code"}]


def test_a_new_host_gets_the_data_of_today_although_the_code_is_unchanged(action, code):
    action._task.args["shared"] = ["app.db"]
    contents = []
    for text in ("old", "new"):
        (code / "app.db").write_text(text)
        action.run()
        with tarfile.open(action.sent[-1][0]) as tar:
            contents.append(tar.extractfile("app.db").read().decode())
    assert contents == ["old", "new"]
    assert len({options["digest"] for options in action.asked}) == 1


def test_the_cached_archive_is_for_its_owner_alone(action):
    action.run()
    assert stat.S_IMODE(Path(action.sent[0][0]).stat().st_mode) == 0o600


def test_a_source_that_cannot_be_had_fails_the_task_with_its_reason(action, tmp_path):
    action._task.args["source"] = str(tmp_path / "none")
    with pytest.raises(AnsibleActionFail, match=r"cannot be had from app_source \(directory\): there is no directory"):
        action.run()

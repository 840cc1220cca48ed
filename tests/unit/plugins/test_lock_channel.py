"""The controller's side of the deploy lock: when it opens a channel, and when it asks nobody."""

from __future__ import annotations

import os
import socket
import subprocess

import pytest
from ansible.errors import AnsibleActionFail

from plugins.module_utils import lock_channel
from plugins.module_utils.lock_channel import FACT, held_by_this_run, is_open, with_lock

TOKEN = f"{socket.gethostname()}:{os.getppid()}:1"


@pytest.fixture
def opened(monkeypatch):
    """Channels that are opened without a host; returns how many."""
    channels = []

    def open_channel(run, command):
        channels.append(run)
        return {"pid": len(channels), "start": "1", "from": "-", "keeper": 4711}

    monkeypatch.setattr(lock_channel, "open_channel", open_channel)
    monkeypatch.setattr(lock_channel, "channel_command", lambda action: [])
    monkeypatch.setattr(lock_channel.context, "CLIARGS", {"args": ["playbooks/deploy.yml"]})
    return channels


def test_a_run_without_a_lock_opens_a_channel_and_remembers(opened):
    asked = []
    result = with_lock(None, {}, lambda lock: asked.append(dict(lock)) or {"ansible_facts": {"site_host": 1}})
    (lock,) = asked
    assert (lock["anchor"], lock["what"]) == ({"pid": 1, "start": "1"}, "deploy.yml")
    assert "keeper" not in lock
    held = result["ansible_facts"][FACT]
    assert result["ansible_facts"]["site_host"] == 1
    assert held["keeper"] == 4711
    assert held_by_this_run({"ansible_facts": {FACT: held}}) == held


def test_a_run_that_has_the_lock_opens_no_other_channel(opened):
    held = {"token": TOKEN, "anchor": {"pid": 9}, "keeper": 4711}
    result = with_lock(None, {"ansible_facts": {FACT: held}}, lambda lock: {"asked": lock["anchor"]})
    assert result == {"asked": {"pid": 9}, "ansible_facts": {FACT: held}}
    assert not opened


def test_another_run_s_lock_is_not_ours(opened):
    assert held_by_this_run({"ansible_facts": {FACT: {"token": "elsewhere:1:1"}}}) is None
    assert held_by_this_run({}) is None


def test_a_channel_that_has_ended_is_opened_again_and_only_once(opened):
    held = {"token": TOKEN, "anchor": {"pid": 9}}
    with_lock(None, {"ansible_facts": {FACT: held}}, lambda lock: {"anchor_gone": lock["anchor"]["pid"] == 9})
    assert len(opened) == 1
    with pytest.raises(AnsibleActionFail, match="ended at once: can the login user run bash"):
        with_lock(None, {}, lambda lock: {"anchor_gone": True})


def test_a_channel_is_open_as_long_as_its_keeper_lives():
    keeper = subprocess.Popen(["sleep", "60"])
    assert is_open({"keeper": keeper.pid})
    keeper.kill()
    # Where nobody waits for it, it stays a zombie; os.waitid looks without taking it away.
    os.waitid(os.P_PID, keeper.pid, os.WEXITED | os.WNOWAIT)
    assert not is_open({"keeper": keeper.pid})
    keeper.wait()
    assert not is_open({"keeper": keeper.pid})
    assert not is_open({})

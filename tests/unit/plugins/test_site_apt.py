"""What apt does not find is asked for once more, with new lists of packages."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ansible import constants
from ansible.plugins.action import ActionBase

from plugins.action import site_apt

ARGS = {"name": ["tzdata"], "update_cache": True, "cache_valid_time": 86400, "lock_timeout": 300}
UNKNOWN = {"failed": True, "msg": "No package matching 'tzdata' is available"}
DONE = {"changed": True}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the action on a host that answers each module as told; returns the result and what it was asked."""
    monkeypatch.setattr(ActionBase, "run", lambda *words, **named: {})
    monkeypatch.setattr(constants, "DEFAULT_LOCAL_TMP", str(tmp_path))

    def run(*answers, check=False):
        asked, left = [], list(answers)

        def host(*words, module_name, module_args, **named):
            asked.append((module_name.removeprefix("ansible.legacy."), module_args))
            return dict(left.pop(0))

        monkeypatch.setattr(ActionBase, "_execute_module", host)
        action = object.__new__(site_apt.ActionModule)
        action._task = SimpleNamespace(args=ARGS, check_mode=check)
        return action.run(None, {"inventory_hostname": "one"}), asked

    return run


@pytest.mark.parametrize(
    "failed",
    [
        UNKNOWN,
        {"failed": True, "msg": "no available installation candidate for tzdata=1"},
        {"failed": True, "msg": "'apt-get install' failed: E: Package 'tzdata' has no installation candidate\n"},
        {"failed": True, "msg": "apt-get failed", "stderr": "E: Unable to locate package tzdata"},
        {"failed": True, "msg": "apt-get failed", "stderr": "Err:1 http://archive tzdata\n  404  Not Found [IP: ::1]"},
    ],
)
def test_what_apt_does_not_find_is_asked_for_once_more_with_new_lists(run, failed):
    result, asked = run(failed, DONE)
    assert result == DONE
    assert asked == [("apt", ARGS), ("apt", {**ARGS, "cache_valid_time": 0})]


def test_what_the_new_lists_do_not_have_either_fails(run):
    result, asked = run(UNKNOWN, UNKNOWN)
    assert result == UNKNOWN
    assert len(asked) == 2


def test_another_failure_is_no_reason_to_fetch_lists(run):
    locked = {"failed": True, "msg": "Failed to lock apt for exclusive operation"}
    assert run(locked) == (locked, [("apt", ARGS)])


@pytest.mark.parametrize(("lists", "sure"), [(0, False), (3, True)])
def test_a_dry_run_without_lists_does_not_take_a_package_for_unknown(run, lists, sure):
    result, asked = run(UNKNOWN, {"matched": lists}, check=True)
    assert result.get("failed", False) is sure
    assert result.get("changed", False) is not sure
    assert asked[1:] == [("find", {"paths": site_apt.LISTS, "patterns": "*_Packages*"})]

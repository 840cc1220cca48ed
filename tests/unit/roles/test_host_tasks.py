"""The user of the app, as the host role makes it."""

from __future__ import annotations

import pytest

from tests.unit.rendering import role_file, value_of


def test_nobody_logs_in_as_the_app():
    (user,) = [
        task["ansible.builtin.user"]
        for task in role_file("host", "tasks/main.yml")
        if task.get("ansible.builtin.user", {}).get("name") == "{{ host_user }}"
    ]
    assert (user["system"], user["shell"], user["create_home"]) == (True, "/usr/sbin/nologin", False)
    assert not {"groups", "password"} & set(user)


def asked(name, site_host=None, **settings):
    """Tell whether a task of the role calls the host, given what the look at it has seen."""
    every = role_file("host", "tasks/main.yml") + role_file("host", "tasks/packages.yml")
    (condition,) = [task["when"] for task in every if task["name"].endswith(name)]
    facts = {} if site_host is None else {"site_host": site_host}
    return value_of("host", f"({condition}) | bool", ansible_facts=facts, **settings)


RIGHT = {"timezone": "Etc/UTC", "user": {"name": "app", "home": "/var/lib/app", "shell": "/usr/sbin/nologin"}}


@pytest.mark.parametrize("task", ["Set the time zone", "Create the user of the app"])
def test_what_the_look_has_seen_to_be_right_is_not_asked_for(task):
    assert asked(task)
    assert asked(task, {"timezone": "", "user": {}, "time_daemons": []})
    assert not asked(task, {**RIGHT, "time_daemons": []})


@pytest.mark.parametrize("difference", [{"name": "other"}, {"home": "/home/app"}, {"shell": "/bin/sh"}], ids=str)
def test_another_user_is_made(difference):
    assert asked("Create the user of the app", {**RIGHT, "user": {**RIGHT["user"], **difference}})


def test_another_time_zone_is_set():
    assert asked("Set the time zone", RIGHT, host_timezone="Europe/Vienna")


@pytest.mark.parametrize(
    ("daemons", "ours"), [([], True), (["/a/80-systemd-timesync.list"], True), (["/a/50-chrony.list"], False)]
)
def test_systemd_s_time_daemon_runs_where_there_is_no_other(daemons, ours):
    assert not asked("Look for a time daemon", {**RIGHT, "time_daemons": daemons})
    assert asked("Keep the clock right", {**RIGHT, "time_daemons": daemons}) is ours
    found = {"files": [{"path": path} for path in daemons]}
    assert asked("Keep the clock right", __host_time_units=found) is ours
    assert asked("Look for a time daemon")


@pytest.mark.parametrize(("kind", "ours"), [("", True), ("lxc", False), ("openvz", False)])
def test_a_container_has_clock_and_swap_of_its_computer(kind, ours):
    seen = {**RIGHT, "time_daemons": [], "container": kind}
    assert not asked("Detect a container", seen)
    assert asked("Keep the clock right", seen) is ours
    assert asked("Keep the clock right", {**seen, "time_daemons": ["/a/80-systemd-timesync.list"]}) is ours
    assert asked("Use the swap file", seen) is ours
    (install,) = [task["site_apt"]["name"] for task in role_file("host", "tasks/packages.yml") if "site_apt" in task]
    facts = {"ansible_facts": {"site_host": seen}}
    assert ("systemd-timesyncd" in value_of("host", install.strip("{} "), **facts)) is ours


@pytest.mark.parametrize(("printed", "ours"), [("none", True), ("lxc", False)])
def test_used_alone_the_role_asks_systemd_whether_the_host_is_a_container(printed, ours):
    assert asked("Detect a container")
    virtualization = {"stdout": printed}
    assert asked("Keep the clock right", __host_virtualization=virtualization, __host_time_units={"files": []}) is ours
    assert asked("Use the swap file", __host_virtualization=virtualization) is ours

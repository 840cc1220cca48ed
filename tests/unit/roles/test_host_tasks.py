"""The user of the app, as the host role makes it."""

from __future__ import annotations

from tests.unit.rendering import role_file


def test_nobody_logs_in_as_the_app():
    (user,) = [
        task["ansible.builtin.user"]
        for task in role_file("host", "tasks/main.yml")
        if task.get("ansible.builtin.user", {}).get("name") == "{{ host_user }}"
    ]
    assert (user["system"], user["shell"], user["create_home"]) == (True, "/usr/sbin/nologin", False)
    assert not {"groups", "password"} & set(user)

"""What the tasks of the app role do with secrets and with other people of the host."""

from __future__ import annotations

import pytest

from tests.unit.rendering import role_file, value_of

TASKS = role_file("app", "tasks/main.yml")


def task_that_writes(path):
    """Return the task of the role that writes a file, and the file's entry in it."""
    (found,) = [
        (task, file)
        for task in TASKS
        for file in task.get("config_files", {}).get("files", [])
        if isinstance(file, dict) and file["path"] == path
    ]
    return found


def test_the_app_s_environment_shows_in_no_output_and_no_diff_and_only_root_reads_it():
    task, file = task_that_writes("{{ app_config_dir }}/app.env")
    assert (task["no_log"], task["diff"]) == (True, False)
    assert file["mode"] == "0600"
    assert {"owner", "group"} & set(file) == set(), "root's, as systemd reads it for the app"


def test_no_other_app_of_the_host_looks_into_code_and_settings():
    directories = [one for task in TASKS for one in task.get("config_files", {}).get("directories", [])]
    modes = {one["path"]: (one["group"], one["mode"]) for one in directories}
    assert modes == dict.fromkeys(
        ("{{ app_root }}", "{{ app_config_dir }}", "{{ app_config_dir }}/sitekeeper"), ("{{ app_user }}", "0750")
    )


@pytest.mark.parametrize("files", ["__app_gunicorn_files", "__app_package_files"])
def test_the_app_reads_what_gunicorn_starts_with_and_cannot_change_it(files):
    found = value_of("app", files, wired=True)
    assert found
    for file in found:
        assert (file.get("owner", "root"), file["group"], file["mode"]) == ("root", "currents", "0640"), file["path"]


def test_a_build_that_fails_comes_before_any_setting_is_written():
    modules = [
        next(word for word in ("app_release", "config_files", "ansible.builtin.import_tasks") if word in task)
        for task in TASKS
    ]
    assert modules.index("app_release") < modules.index("config_files")

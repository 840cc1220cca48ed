"""What the tasks of the front do when it is switched on, and when it is switched off."""

from __future__ import annotations

import pytest
from ansible.template import trust_as_template

from tests.unit.rendering import role_file, templar


def included(path, enabled):
    """Return the files of tasks that are included; the host has a front of an earlier run."""
    found = {"__front_earlier": {"stat": {"exists": True}}}
    engine = templar("front", wired=True, app_name="currents", front="haproxy" if enabled else "none", **found)

    def holds(condition):
        return engine.template(trust_as_template(f"{{{{ {condition} }}}}"))

    files = []
    for task in role_file("front", path):
        conditions = task.get("when", [])
        if all(holds(one) for one in ([conditions] if isinstance(conditions, str) else conditions)):
            files.append(task["ansible.builtin.include_tasks"]["file"])
    return files


@pytest.mark.parametrize(
    ("path", "enabled", "files"),
    [
        ("tasks/prepare.yml", True, ["install.yml"]),
        ("tasks/serve.yml", True, ["run.yml"]),
        # The port first: until the app has it, visitors are refused. The files go when it has.
        ("tasks/prepare.yml", False, []),
        ("tasks/give_back.yml", True, []),
        ("tasks/give_back.yml", False, ["stop.yml"]),
        ("tasks/serve.yml", False, ["remove.yml"]),
    ],
)
def test_a_front_that_is_switched_off_gives_the_port_back_before_its_files_go(path, enabled, files):
    assert included(path, enabled) == files

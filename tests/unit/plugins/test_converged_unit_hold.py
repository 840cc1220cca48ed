"""What would interrupt a running unit can be left for later; what only begins something is not."""

from __future__ import annotations

import pytest

from plugins.module_utils.unit_plan import Wanted, interrupts, plan
from tests.unit.plugins.unit_states import APP, CRASHING, DOWN, NEW, SOCKET, UP
from tests.unit.rendering import role_file


@pytest.mark.parametrize(
    ("app", "socket", "drift", "waits"),
    [
        (UP, UP, {}, False),
        (UP, UP, {APP: ["/etc/app.env"]}, True),
        (UP, UP, {SOCKET: ["/etc/systemd/system/testkeeper-app.socket"]}, True),
        (CRASHING, UP, {APP: ["/etc/app.env"]}, True),
        (UP, DOWN, {}, True),
        (DOWN, UP, {}, False),
        (NEW, NEW, {}, False),
        ({**UP, "UnitFileState": "disabled"}, UP, {}, False),
    ],
    ids=["nothing", "settings", "port", "crashing", "socket lost", "stopped", "new", "only enabled"],
)
def test_only_a_restart_of_what_runs_waits(app, socket, drift, waits):
    units = {APP: app, SOCKET: socket}
    steps = plan(Wanted(APP, SOCKET), units, drift)
    assert interrupts(steps, units) is waits


@pytest.mark.parametrize(
    ("role", "file", "module", "register"),
    [("service", "run", "converged_unit", "__service_run"), ("release", "main", "site_release", "__release_done")],
)
def test_the_role_hands_it_on_and_keeps_the_answer_for_the_playbook(role, file, module, register):
    (task,) = [task for task in role_file(role, f"tasks/{file}.yml") if module in task]
    assert (task[module]["hold"], task["register"]) == (f"{{{{ {role}_hold }}}}", register)

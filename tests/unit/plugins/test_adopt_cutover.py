"""What the change-over measures, and what is asked before it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ansible.module_utils.load_generator import Ledger, Row

from plugins.filter.adopt import adopt_command, adopt_question
from plugins.modules.adopt_cutover import DOCUMENTATION, OPTIONS, Watch, outage

REPOSITORY = Path(__file__).resolve().parents[3]


def row(started, ended, outcome="ok"):
    return Row(seq=int(started * 10), due=started, started=started, ended=ended, outcome=outcome)


@pytest.mark.parametrize(
    ("rows", "seconds"),
    [
        ([row(0, 0.1), row(1, 1.1), row(2, 2.1, "refused"), row(3, 6.1), row(4, 6.2)], 5.0),
        ([row(0, 0.1), row(1, 1.2)], 1.1),
        ([row(0, 0.1)], 0.0),
        ([row(0, 0.1, "refused")], None),
        ([], None),
    ],
)
def test_outage_is_the_longest_time_between_two_good_answers(rows, seconds):
    assert outage(rows) == seconds


class Recorded:
    """A load of which the time and the requests are given."""

    def __init__(self):
        self.time, self.rows = 0.0, []

    def now(self):
        return self.time

    def so_far(self):
        return Ledger(tuple(self.rows))


def test_answers_of_the_old_app_are_no_sign_of_the_new_one():
    load = Recorded()
    watch = Watch(load)
    load.rows = [row(at / 10, at / 10 + 0.05) for at in range(10)]
    load.time = 2.0
    assert not watch.answered()
    load.rows += [row(2.1, 2.2), row(2.2, 2.3)]
    assert not watch.answered()
    load.rows += [row(2.3, 2.4)]
    assert watch.answered()
    load.rows += [row(2.4, 2.5, "error_status")]
    assert not watch.answered()


def test_the_question_names_the_hosts_and_the_command():
    said = adopt_question(["currents", "wires"], ["inventory/hosts.yml"], "web")
    assert "The app on currents, wires is built anew" in said
    command = "ansible-playbook -i inventory/hosts.yml playbooks/adopt.yml --limit web -e adopt_confirm=yes"
    assert said.endswith(f"To do it: {command}")
    assert adopt_command(["a b,"]).startswith("ansible-playbook -i 'a b,' playbooks/adopt.yml -e")


@pytest.mark.parametrize("name", ["adopt_survey", "adopt_cutover"])
def test_documentation_has_every_option(name):
    module = __import__(f"plugins.modules.{name}", fromlist=["DOCUMENTATION"])
    documented = yaml.safe_load(module.DOCUMENTATION)["options"]
    assert set(OPTIONS) <= set(documented)
    assert {key: documented[key].get("default") for key in OPTIONS} == {
        key: option.get("default") for key, option in OPTIONS.items()
    }


def every_task(tasks):
    """Yield tasks, those in blocks as well."""
    for task in tasks:
        yield task
        for part in ("block", "rescue"):
            yield from every_task(task.get(part, []))


def test_the_host_is_looked_at_and_the_question_asked_before_anything_else():
    plays = [play for play in yaml.safe_load((REPOSITORY / "playbooks/adopt.yml").read_text()) if "hosts" in play]
    assert "adopt_survey" in plays[0]["tasks"][0]
    assert not any("adopt_cutover" in task or "ansible.builtin.import_role" in task for task in plays[0]["tasks"])
    assert plays[0]["any_errors_fatal"] is True
    order = [
        task.get("adopt_cutover", {}).get("stage") or task.get("ansible.builtin.import_role", {}).get("tasks_from")
        for task in plays[1]["tasks"]
    ]
    assert order.index("save") < order.index("install.yml") < order.index("switch") < order.index("run.yml")
    assert "stage" in DOCUMENTATION


def test_broken_off_change_over_is_put_back_before_anything_that_takes_long():
    plays = [play for play in yaml.safe_load((REPOSITORY / "playbooks/adopt.yml").read_text()) if "hosts" in play]
    acts = [task for task in plays[1]["tasks"] if "ansible.builtin.meta" not in task]
    assert acts[0]["adopt_cutover"]["stage"] == "put_back"
    assert acts[0]["when"] == "__adopt_found.state == 'unfinished'"
    choices = yaml.safe_load(DOCUMENTATION)["options"]["stage"]["choices"]
    used = [task["adopt_cutover"]["stage"] for task in every_task(plays[1]["tasks"]) if "adopt_cutover" in task]
    assert used == choices

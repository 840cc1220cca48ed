"""What a deploy does with several hosts, in which order, and where it stops: real playbooks, roles that note it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.polling import PATIENCE_SECONDS

REPOSITORY = Path(__file__).resolve().parents[3]
#: In place of every action: writes down who it was, and answers as the test wants.
NOTE = """
import json, os
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    _requires_connection = False
    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        options = dict(self._task.args)
        own = f"{self._task.action} {options.get('state', options.get('action', ''))}"
        what = options.pop("what", own.strip())
        words = f"{task_vars['inventory_hostname']} {what}"
        with open(os.environ["NOTED"], "a") as lines:
            lines.write(json.dumps({"words": words, **options}) + "\\n")
        answer = json.loads(os.environ["ANSWERS"]).get(words, {})
        if options.pop("hold", False) and words in json.loads(os.environ["PENDING"]):
            return {"changed": True, "pending": True, **answer}
        return {"changed": True, **answer}
"""
ROLES = {
    "app": ["main"],
    "front": ["prepare", "give_back", "serve"],
    "service": ["install", "run"],
    "release": ["main", "switch"],
    "logrotate": ["main"],
    "balancer": ["main"],
}
REGISTERED = {"release main": "__release_done", "service run": "__service_run"}
HOLDS = {"release main": "{{ release_hold }}", "service run": "{{ service_hold | default(false) }}"}
ALL = ["web1 release main", "web2 release main", "web3 release main"]


def stand_ins(top: Path) -> None:
    """Write the roles and the actions."""
    for role, files in ROLES.items():
        directory = top / "roles" / role / "tasks"
        directory.mkdir(parents=True)
        for file in files:
            what = f"{role} {file}"
            task = {"name": what, "note": {"what": what, **({"hold": HOLDS[what]} if what in HOLDS else {})}}
            task |= {"register": REGISTERED[what]} if what in REGISTERED else {}
            (directory / f"{file}.yml").write_text(yaml.safe_dump([task]))
    for file in ("tasks/drain.yml", "tasks/refill.yml", "vars", "defaults"):
        (top / "roles/balancer" / file).symlink_to(REPOSITORY / "roles/balancer" / file)
    (top / "action").mkdir()
    for name in ("note", "deploy_lock", "balancer_server", "site_release"):
        (top / "action" / f"{name}.py").write_text(NOTE)


@pytest.fixture
def play(tmp_path):
    """Run a playbook without its checks of settings; return exit status, output, and what was noted."""
    stand_ins(tmp_path)
    (tmp_path / "inventory").mkdir()
    (tmp_path / "inventory/group_vars").symlink_to(REPOSITORY / "group_vars")

    def run(*arguments, playbook="deploy", balanced=True, hosts=3, pending=(), answers=None, **balancer):
        every = yaml.safe_load((REPOSITORY / f"playbooks/{playbook}.yml").read_text())
        # In the place of the checks: the size of a batch is asked of hostvars, which there are after a first play.
        plays = [{"hosts": "all", "gather_facts": False}, *(one for one in every if "hosts" in one)]
        (tmp_path / "play.yml").write_text(yaml.safe_dump(plays, sort_keys=False))
        names = [f"web{number}" for number in range(1, hosts + 1)]
        inventory = {"hosts": dict.fromkeys(names)}
        if balanced:
            inventory["children"] = {"balancers": {"hosts": {"lb": {"balancer_backends": names, **balancer}}}}
        (tmp_path / "inventory/hosts.yml").write_text(yaml.safe_dump({"all": inventory}))
        noted = tmp_path / "noted"
        noted.write_text("")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        environment |= {
            "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"),
            "ANSIBLE_ACTION_PLUGINS": str(tmp_path / "action"),
            "ANSIBLE_ROLES_PATH": str(tmp_path / "roles"),
            "NOTED": str(noted),
            "ANSWERS": json.dumps(answers or {}),
            "PENDING": json.dumps(list(pending)),
        }
        words = [str(Path(sys.executable).with_name("ansible-playbook")), str(tmp_path / "play.yml")]
        done = subprocess.run(
            [*words, "-i", str(tmp_path / "inventory"), "-c", "local", "-e", '{"ansible_become": false}', *arguments],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        lines = [json.loads(line)["words"] for line in noted.read_text().splitlines()]
        return done.returncode, done.stdout + done.stderr, lines

    return run


def turn(host):
    """What happens to a host in its turn."""
    parts = ["balancer_server drained", "release switch", "front give_back", "service run", "front serve"]
    return [f"{host} {part}" for part in [*parts, "balancer_server ready"]]


def after_proof(lines):
    """Return what was done after all hosts had been proven."""
    return lines[max(index for index, line in enumerate(lines) if line.endswith("logrotate main")) + 1 :]


def test_all_hosts_are_proven_before_they_take_turns_one_by_one(play):
    code, output, lines = play(pending=ALL)
    assert code == 0, output
    assert after_proof(lines) == [*turn("web1"), *turn("web2"), *turn("web3"), "lb balancer main"]
    proven = lines[: -len(after_proof(lines))]
    assert [line for line in proven if line.endswith(("give_back", "service run", "front serve"))] == []
    assert sum(line.endswith("balancer_server ready") for line in proven) == 3, "what a killed run left is healed"


def test_the_batch_is_the_balancer_s(play):
    _, _, lines = play(pending=ALL, rolling_batch=2)
    rest = after_proof(lines)
    assert set(rest[:2]) == {"web1 balancer_server drained", "web2 balancer_server drained"}
    assert rest.index("web3 balancer_server drained") > rest.index("web2 balancer_server ready")


def test_with_nothing_to_do_nobody_takes_a_turn(play):
    code, _, lines = play()
    assert code == 0
    assert after_proof(lines) == ["lb balancer main"]
    assert [line for line in lines if "drained" in line or "switch" in line] == []


def test_a_restart_for_changed_settings_waits_for_its_turn_too(play):
    _, _, lines = play(pending=["web2 service run"])
    assert after_proof(lines) == [*turn("web2"), "lb balancer main"]
    assert "web1 front serve" in lines
    assert lines.count("web2 front serve") == 1, "not before its turn"


def test_the_first_failure_ends_the_roll_and_the_host_is_filled_again(play):
    failure = {"failed": True, "msg": "taken back", "serves": {"release": "old", "note": "taken back"}}
    waits = {"serves": {"release": "old", "note": "new waits"}}
    answers = {"web2 release switch": failure, "web1 release switch": {"serves": {"release": "new", "note": ""}}}
    code, output, lines = play(pending=ALL, answers={**dict.fromkeys(ALL, waits), **answers})
    assert code != 0
    second = ["web2 balancer_server drained", "web2 release switch", "web2 balancer_server ready"]
    assert after_proof(lines) == [*turn("web1"), *second]
    shown = output[output.index("Host ") :]
    assert re.search(r"(?m)^web1 +new$", shown)
    assert re.search(r"(?m)^web2 +old +taken back$", shown)
    assert re.search(r"(?m)^web3 +old +new waits$", shown)


def test_one_failure_in_a_batch_ends_the_roll_though_the_others_of_the_batch_are_well(play):
    # A batch of which every host has failed ends a play by itself; of one host that is always so.
    answers = {"web1 release switch": {"failed": True, "msg": "taken back"}}
    code, _, lines = play(pending=ALL, answers=answers, rolling_batch=2)
    assert code != 0
    assert [line for line in lines if line.startswith("web3") and line.endswith(("drained", "switch"))] == []
    rest = after_proof(lines)
    assert {"web1 balancer_server ready", "web2 balancer_server ready"} <= set(rest), "both are filled again"


def test_a_release_that_is_not_sound_on_one_host_is_switched_to_on_none(play):
    answers = {"web2 release main": {"failed": True, "msg": "/login of app_smoke_paths: it answers 500"}}
    code, output, lines = play(pending=[ALL[0], ALL[2]], answers=answers)
    assert code != 0
    assert "Nothing was switched: web2 failed" in output
    assert [line for line in lines if "drained" in line or "release switch" in line] == []
    assert re.search(r"(?m)^web2 +as before", output)


def test_one_host_without_a_balancer_does_all_at_once_as_ever(play):
    code, output, lines = play(balanced=False, hosts=1, pending=ALL)
    assert code == 0, output
    assert lines == [
        "web1 deploy_lock",
        "web1 app main",
        "web1 front prepare",
        "web1 service install",
        "web1 release main",
        "web1 front give_back",
        "web1 service run",
        "web1 front serve",
        "web1 logrotate main",
    ]
    assert "Host " not in output
    assert "WARNING" not in output


def test_a_dry_run_goes_through_all_hosts_at_once(play):
    code, output, lines = play("--check", pending=ALL)
    assert code == 0, output
    assert [line for line in lines if "drained" in line] == []
    assert "web1 service run" in lines


def test_a_part_of_the_hosts_takes_its_turn_at_the_balancer_too(play):
    code, output, lines = play("--limit", "web2", pending=ALL)
    assert code == 0, output
    assert after_proof(lines) == turn("web2")


def test_a_part_of_the_deploy_needs_no_other_part(play):
    code, output, lines = play("--tags", "logrotate")
    assert code == 0, output
    assert sorted(line for line in lines if line.endswith("main")) == [f"web{n} logrotate main" for n in (1, 2, 3)]
    assert "Host " not in output, "nobody was asked for a release, and nobody failed"


def test_a_rollback_goes_host_by_host_and_stops_at_the_first_failure(play):
    failure = {"failed": True, "msg": "there is no good release to go back to"}
    code, _, lines = play(playbook="rollback", answers={"web2 site_release rollback": failure})
    assert code != 0
    one = ["deploy_lock", "balancer_server drained", "site_release rollback", "balancer_server ready"]
    assert lines == [f"{host} {what}" for host in ("web1", "web2") for what in one]


def test_a_rollback_without_a_balancer_goes_back_everywhere_at_once(play):
    failure = {"failed": True, "msg": "there is no good release to go back to"}
    _, _, lines = play(playbook="rollback", balanced=False, answers={"web1 site_release rollback": failure})
    assert {line for line in lines if "rollback" in line} == {f"web{n} site_release rollback" for n in (1, 2, 3)}

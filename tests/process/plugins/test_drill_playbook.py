"""The playbook of the fire drill, run here with a module that only says what it would have measured."""

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
PLAYBOOK = REPOSITORY / "playbooks" / "drill.yml"
#: Answers as `drill_fault` does; what it is asked is written down. A fault of `BAD` is not recovered from.
STAND_IN = """
import json, pathlib
from ansible.module_utils.basic import AnsibleModule

names = ("name", "fault", "url", "host_header", "rate", "seconds", "bad", "asked")
module = AnsibleModule(argument_spec={name: {} for name in names}, supports_check_mode=True)
if module.check_mode:
    module.exit_json(skipped=True)
given = module.params
with pathlib.Path("ASKED").open("a") as lines:
    lines.write(json.dumps(given) + "\\n")
if given["fault"] == "CRASH":
    module.fail_json(msg="the monitor is held: database work")
bad = given["fault"] == "BAD"
module.exit_json(changed=True, drill={
    "fault": given["fault"], "took_effect": True, "evidence": "pid 7 gone", "detected_seconds": None if bad else 0.4,
    "back_seconds": 2.5, "requests": 40, "refused": 0, "failed": 1, "outcomes": {"ok": 39, "reset": 1},
    "longest_wait_seconds": 2.4, "restarted": False, "recovered": not bad,
    "verdict": "NOT NOTICED: undone by the drill" if bad else "back, 1 lost"})
"""


@pytest.fixture
def drill(tmp_path):
    """Run the plays after the checks of settings; return exit status and output."""
    asked = tmp_path / "asked"

    def run(*arguments, bad="none", crash="none", hosts="currents,"):
        plays = [play for play in yaml.safe_load(PLAYBOOK.read_text()) if "hosts" in play]
        (tmp_path / "play.yml").write_text(yaml.safe_dump(plays), encoding="utf-8")
        text = STAND_IN.replace("ASKED", str(asked)).replace("BAD", bad).replace("CRASH", crash)
        (tmp_path / "library").mkdir(exist_ok=True)
        (tmp_path / "library" / "drill_fault.py").write_text(text)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        environment |= {"ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"), "ANSIBLE_LIBRARY": str(tmp_path / "library")}
        site = {
            "app_name": "currents",
            "app_bind_address": "0.0.0.0",
            "app_port": 5555,
            "app_health_path": "/health",
            "ansible_become": False,
            "ansible_python_interpreter": sys.executable,
        }
        words = [str(Path(sys.executable).with_name("ansible-playbook")), str(tmp_path / "play.yml"), "-i", hosts]
        done = subprocess.run(
            [*words, "-c", "local", "-e", json.dumps(site), *arguments],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    run.asked = lambda: [json.loads(line) for line in asked.read_text().splitlines()] if asked.exists() else []
    run.path = tmp_path
    return run


@pytest.mark.parametrize("arguments", [(), ("-e", "drill_confirm=no"), ("--check",)], ids=str)
def test_without_a_yes_nothing_is_done_and_the_command_is_told(drill, arguments):
    status, output = drill(*arguments, "-e", "drill_faults=oom,restart", "-e", "drill_rate=7")
    assert status != 0
    assert drill.asked() == []
    assert "Nothing was done." in output
    assert "The drill breaks the live site of currents on purpose" in output
    assert "asks the site 7 times a second" in output
    assert "lowers the memory limit" in output
    (command,) = set(re.findall(r"To do it: (.*)", output))
    settings = "-e drill_confirm=yes -e drill_faults=oom,restart -e drill_rate=7"
    assert command == f"ansible-playbook -i currents, playbooks/drill.yml {settings}"


def test_with_a_yes_each_fault_is_done_in_its_order_and_the_table_ends_the_run(drill):
    status, output = drill("-e", "drill_confirm=yes", "-e", "drill_faults=restart,oom", "-e", "drill_seconds=60")
    assert status == 0, output
    assert [(one["fault"], one["name"], one["seconds"]) for one in drill.asked()] == [
        ("restart", "currents", "60"),
        ("oom", "currents", "60"),
    ]
    assert drill.asked()[0]["url"] == "http://127.0.0.1:5555/health"
    assert (drill.asked()[0]["rate"], drill.asked()[0]["host_header"]) == (None, None), "the module's own"
    head = r"^  fault +took effect +detected s +back s +requests +refused +failed +longest wait s +verdict$"
    assert re.search(head, output, re.MULTILINE), output
    assert re.search(r"^  restart +yes +0\.4 +2\.5 +40 +0 +1 +2\.4  back, 1 lost$", output, re.MULTILINE), output
    assert output.index("  restart  ") < output.index("  oom  ")


def test_all_faults_are_done_when_none_is_named(drill):
    assert drill("-e", "drill_confirm=yes")[0] == 0
    assert len({one["fault"] for one in drill.asked()}) == 8


def test_the_results_are_written_where_the_command_was_typed(drill):
    drill("-e", "drill_confirm=yes", "-e", "drill_faults=oom")
    written = json.loads((drill.path / "drill-currents.json").read_text())
    assert (written["host"], written["site"]) == ("currents", "currents")
    assert written["faults"][0]["outcomes"] == {"ok": 39, "reset": 1}
    drill("-e", "drill_confirm=yes", "-e", "drill_faults=oom", "-e", f"drill_report={drill.path}/other.json")
    assert (drill.path / "other.json").exists()


def test_a_fault_without_recovery_fails_the_run_but_not_the_others(drill):
    status, output = drill("-e", "drill_confirm=yes", "-e", "drill_faults=master-stop,oom", bad="master-stop")
    assert status == 2
    assert [one["fault"] for one in drill.asked()] == ["master-stop", "oom"]
    assert (
        "    1 fault of 2 without a recovery on currents:\n      master-stop: NOT NOTICED: undone by the drill"
        in output
    )
    assert re.search(r"^  master-stop +yes +- +2\.5", output, re.MULTILINE), output


def test_a_fault_that_could_not_be_done_is_in_the_report_too(drill):
    status, output = drill("-e", "drill_confirm=yes", "-e", "drill_faults=restart,oom", crash="restart")
    assert status == 2
    assert "the monitor is held: database work" in output
    assert "restart: NOT DONE, see above" in output
    assert re.search(r"^  oom +yes", output, re.MULTILINE), output
    assert len(json.loads((drill.path / "drill-currents.json").read_text())["faults"]) == 1


def test_hosts_come_one_after_the_other_and_none_after_a_failure(drill):
    words = ("-e", "drill_confirm=yes", "-e", "drill_faults=oom")
    assert drill(*words, hosts="one,two,")[0] == 0
    assert {path.name for path in drill.path.glob("drill-*.json")} == {"drill-one.json", "drill-two.json"}
    before = len(drill.asked())
    assert drill(*words, hosts="one,two,", bad="oom")[0] != 0
    assert len(drill.asked()) == before + 1


def test_check_mode_with_a_yes_does_nothing(drill):
    status, output = drill("-e", "drill_confirm=yes", "--check")
    assert status == 0, output
    assert drill.asked() == []
    assert not list(drill.path.glob("*.json"))


def test_an_unknown_fault_is_refused_before_any_host_is_reached(tmp_path):
    (tmp_path / "hosts.yml").write_text(
        "all: {hosts: {currents: {ansible_host: 192.0.2.1, app_source: examples/currents}}}", encoding="utf-8"
    )
    (tmp_path / "group_vars").symlink_to(REPOSITORY / "group_vars")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    settings = ("drill_confirm=yes", "drill_faults=meteor", "drill_rate=1000", "drill_report=-x", "drill_rat=1")
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            *("playbooks/drill.yml", "-i", str(tmp_path / "hosts.yml")),
            *(word for setting in settings for word in ("-e", setting)),
        ],
        cwd=REPOSITORY,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert 'drill_faults  is "meteor": must be one or more of worker-kill, master-kill' in said, said
    assert "drill_rate    is" in said
    assert "drill_report  is" in said
    assert "did you mean drill_rate?" in said
    assert "UNREACHABLE" not in said

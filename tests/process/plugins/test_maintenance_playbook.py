"""The playbook of the maintenance: what it asks of sitectl, and what it refuses."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from plugins.module_utils.site_check import load_specs, value_problems
from tests.polling import PATIENCE_SECONDS

REPOSITORY = Path(__file__).resolve().parents[3]
SPECS = load_specs([REPOSITORY / "roles"])


@pytest.fixture
def play(tmp_path):
    """Run the plays after the checks of settings, with a stand-in for sitectl; return exit status, output, calls."""
    calls = tmp_path / "calls"
    stand_in = tmp_path / "sitectl"
    stand_in.write_text(
        f"#!/bin/sh\nprintf '%s\\n' \"$@\" >>{shlex.quote(str(calls))}\n"
        '[ "$4" = on ] || echo "currents was not in maintenance."\n'
    )
    stand_in.chmod(0o755)
    plays = [one for one in yaml.safe_load((REPOSITORY / "playbooks/maintenance.yml").read_text()) if "hosts" in one]
    (tmp_path / "play.yml").write_text(yaml.safe_dump(plays), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    environment |= {"ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"), "ANSIBLE_STDOUT_CALLBACK": "default"}

    def run(*words):
        given = {"app_name": "currents", "ansible_become": False, "__maintenance_program": str(stand_in)}
        given["ansible_python_interpreter"] = sys.executable
        program = Path(sys.executable).with_name("ansible-playbook")
        done = subprocess.run(
            [program, "play.yml", "-i", "currents,", "-c", "local", "-e", json.dumps(given), *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        asked = calls.read_text().splitlines() if calls.exists() else []
        return done.returncode, done.stdout + done.stderr, asked

    return run


def test_on_is_for_half_an_hour_and_counts_as_a_change(play):
    status, said, asked = play("-e", "maintenance=on")
    assert status == 0, said
    assert asked == ["--site", "currents", "maintenance", "on", "--minutes", "30"]
    assert "changed=1" in said


def test_time_and_message_are_handed_over_as_they_are(play):
    message = 'It\'s $HOME; "back" at 5 %n -- `id`'
    given = json.dumps({"maintenance": "on", "maintenance_minutes": 5, "maintenance_message": message})
    status, said, asked = play("-e", given)
    assert status == 0, said
    assert asked[4:] == ["--minutes", "5", f"--message={message}"]


def test_off_where_there_is_none_changes_nothing(play):
    status, said, asked = play("-e", "maintenance=off")
    assert (status, asked) == (0, ["--site", "currents", "maintenance", "off"]), said
    assert "changed=0" in said


def test_without_on_or_off_nothing_is_done(play):
    status, said, asked = play()
    assert (status, asked) == (2, [])
    assert "Say -e maintenance=on" in said


@pytest.mark.parametrize(
    ("name", "value", "good"),
    [
        ("maintenance", "on", True),
        ("maintenance", "off", True),
        ("maintenance", True, False),
        ("maintenance", "yes", False),
        ("maintenance_minutes", "90", True),
        ("maintenance_minutes", 1441, False),
        ("maintenance_minutes", 0, False),
        ("maintenance_message", "Zurück um 12 h.", True),
        ("maintenance_message", "two\nlines", False),
        ("maintenance_message", "x" * 501, False),
        ("monitor_maintenance_file", "/etc/currents/maintenance.json", True),
        ("monitor_maintenance_file", "/etc/passwd", False),
        ("monitor_maintenance_file", "/etc/currents/../passwd", False),
    ],
)
def test_what_is_said_on_the_command_line_is_checked_first(name, value, good):
    assert (value_problems(name, value, SPECS) == []) is good

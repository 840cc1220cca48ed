"""What an operator sees of a run: text functions, and real runs on the controller itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from molecule.command.idempotence import Idempotence

from plugins.module_utils.run_report import at_once, counted, failure_lines, host_rows, restarts_in, table, tail
from tests.polling import PATIENCE_SECONDS

REPOSITORY = Path(__file__).resolve().parents[3]
CANARY = "canary7c1fe0"

PLAYBOOK = """
- name: First things
  hosts: all
  gather_facts: false
  tasks:
    - name: Look at something
      ansible.builtin.assert:
        that: true
    - name: Say something
      ansible.builtin.debug:
        msg: "one\\ntwo"
    - name: Leave this out
      reporting:
      when: false
- name: Site
  hosts: all
  gather_facts: false
  roles: [service]
- name: Nobody
  hosts: all:!all
  gather_facts: false
  tasks: []
"""
ROLE_TASKS = """
- name: Write the file
  ansible.builtin.copy:
    content: "new\\n"
    dest: "{{ place }}/file"
    mode: "0644"
- name: Do some things
  reporting:
  loop: [one, two]
- name: Touch a secret
  reporting:
    text: CANARY
  no_log: true
  notify: Restart it
- name: Wait for the third time
  reporting:
    third_time: "{{ place }}/count"
  register: __answer
  until: __answer is succeeded
  retries: 5
  delay: 0.01
  changed_when: false
- name: Fail and be rescued
  block:
    - name: Break
      ansible.builtin.command: "sh -c 'echo to the error output >&2; exit 3'"
    - name: Never here
      reporting:
  rescue:
    - name: Report
      reporting:
"""
ROLE_HANDLERS = """
- name: Restart it
  reporting:
"""
# An action that runs nothing on the host, and so is quick.
REPORTING = """
from __future__ import annotations
from pathlib import Path
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        options = self._task.args
        if counter := options.get("third_time"):
            with Path(counter).open("a") as lines:
                lines.write("x")
            return {"failed": len(Path(counter).read_text()) < 3}
        if options.get("fails"):
            return {"failed": True, "msg": "bad", "stderr": options.get("text", "")}
        restart = {"unit": "currents.service", "action": "restart", "why": options.get("why", "its settings changed")}
        summary = [["address", "http://192.0.2.1:5555"], ["release", "v1"]]
        return {"changed": True, "restarts": [restart], "summary": summary}
"""
FAILING = """
- name: Bad luck
  hosts: all
  gather_facts: false
  tasks:
    - name: Refuse
      ansible.builtin.fail:
        msg: "first line\\nsecond line"
      vars:
        unused: CANARY
    - name: Later
      reporting:
"""
HIDDEN = """
- name: Secrets
  hosts: all
  gather_facts: false
  tasks:
    - name: Handle a secret
      reporting:
        fails: true
        text: CANARY
      no_log: true
"""
LOOPED = """
- name: Loop
  hosts: all
  gather_facts: false
  tasks:
    - name: Try each
      reporting:
        fails: "{{ item == 'bad' }}"
        why: "{{ item }}"
      loop: [good, better, bad]
      changed_when: false
"""


def run(directory: Path, playbook: str, *arguments: str) -> tuple[int, str]:
    """Run a playbook on this machine with the repository's configuration; return exit status and output."""
    tasks, handlers = directory / "roles/service/tasks", directory / "roles/service/handlers"
    for path, text in (
        (tasks / "main.yml", ROLE_TASKS),
        (handlers / "main.yml", ROLE_HANDLERS),
        (directory / "action_plugins/reporting.py", REPORTING),
        (directory / "play.yml", playbook),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("CANARY", CANARY), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    environment["ANSIBLE_CONFIG"] = str(REPOSITORY / "ansible.cfg")
    program = [str(Path(sys.executable).with_name("ansible-playbook")), str(directory / "play.yml")]
    interpreter = f"ansible_python_interpreter={sys.executable}"
    place = directory / "place"
    place.mkdir(exist_ok=True)
    done = subprocess.run(
        [*program, "-i", "currents,", "-c", "local", "-e", f"place={place}", "-e", interpreter, *arguments],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def busy(tmp_path_factory):
    """The output of a run in which much happens."""
    status, output = run(tmp_path_factory.mktemp("busy"), PLAYBOOK, "--diff")
    assert status == 0, output
    return output


def test_a_phase_has_one_line_with_seconds_and_counts(busy):
    assert re.search(r"^First things +\d+\.\d s  2 ok$", busy, re.MULTILINE), busy
    assert re.search(r"^service +\d+\.\d s  \d+ ok, \d changed, 1 failed$", busy, re.MULTILINE), busy


def test_changed_tasks_are_named_and_others_are_not(busy):
    assert "TASK [service : Do some things]\nchanged: [currents] => (item=one)\n" in busy
    assert "changed: [currents] => (item=two)" in busy
    assert "Look at something" not in busy
    assert "Leave this out" not in busy


def test_differences_are_shown(busy):
    assert "+new" in busy


def test_written_messages_are_shown_line_by_line(busy):
    assert "currents: one\ncurrents: two" in busy


def test_a_retry_is_said_once(busy):
    assert busy.count("waiting: [currents] service : Wait for the third time") == 1


def test_a_failed_command_shows_its_error_output_and_status(busy):
    assert "      to the error output\n    exit status 3" in busy, busy


def test_no_secret_and_no_json_is_printed(busy):
    assert CANARY not in busy
    assert '"changed":' not in busy


def test_restarts_are_listed_once_with_their_reason(busy):
    assert busy.count("Restarted: currents.service on currents (restart): its settings changed") == 1


def test_the_summary_of_a_host_is_a_table(busy):
    assert "\ncurrents\n  address  http://192.0.2.1:5555\n  release  v1\n" in busy


def test_a_warning_of_several_results_stands_once_in_the_summary(busy):
    # Several tasks of the role return the same rows.
    assert len(re.findall(r"^  address ", busy, re.MULTILINE)) == 1


def test_the_phases_come_again_as_a_table(busy):
    assert re.search(r"^Phase +time  changed  failed$", busy, re.MULTILINE)
    assert re.search(r"^service +\d+\.\d s +5 +1$", busy, re.MULTILINE), busy


def test_a_play_without_hosts_is_said_loudly(busy):
    assert "no host matched: the play 'Nobody' did nothing" in busy


def test_a_play_of_the_controller_that_a_limit_leaves_out_is_not_missed(tmp_path):
    plays = "".join(f"- hosts: {hosts}\n  gather_facts: false\n  tasks: []\n" for hosts in ("localhost", "all"))
    assert "no host matched" not in run(tmp_path, plays, "--limit", "currents")[1]


def test_the_recap_is_ansibles_and_molecule_reads_it(busy):
    assert re.search(
        r"^currents +: ok=\d+ +changed=5 +unreachable=0 +failed=0 +skipped=1 +rescued=1 +ignored=0 *$",
        busy,
        re.MULTILINE,
    ), busy
    reader = Idempotence.__new__(Idempotence)
    assert not reader._is_idempotent(busy)
    assert "* [currents] => service : Write the file" in reader._non_idempotent_tasks(busy)


def test_the_last_line_counts_and_gives_the_seconds(busy):
    last = busy.strip().splitlines()[-1]
    assert re.fullmatch(r"Finished: 5 changed, 0 failed on 1 host in \d+\.\d s", last)


def test_a_message_keeps_its_lines_and_arguments_stay_out(tmp_path):
    status, output = run(tmp_path, FAILING)
    assert status == 2
    assert "TASK [Refuse]\nfatal: [currents]: FAILED!\n    first line\n    second line\n" in output
    assert CANARY not in output
    assert re.search(r"^Finished: 0 changed, 1 failed on 1 host", output, re.MULTILINE)
    assert "Restarted: nothing" in output


@pytest.mark.parametrize("verbosity", ["", "-vvv"])
def test_a_hidden_task_fails_without_its_output(tmp_path, verbosity):
    status, output = run(tmp_path, HIDDEN, *filter(None, [verbosity]))
    assert status == 2
    assert "Handle a secret" in output
    assert CANARY not in output


def test_only_the_bad_items_of_a_loop_are_shown(tmp_path):
    status, output = run(tmp_path, LOOPED, "--check")
    assert status == 2
    assert "failed: [currents]: (item=bad)\n    bad\n" in output
    assert "item=good" not in output


def test_check_mode_is_announced(tmp_path):
    output = run(tmp_path, LOOPED, "--check")[1]
    assert output.startswith("check mode: nothing is changed\n")
    assert "Would restart: currents.service on currents (restart): good; better\n" in output


def test_more_verbosity_gives_ansibles_own_output(tmp_path):
    output = run(tmp_path, FAILING, "-v")[1]
    assert "PLAY [Bad luck] ***" in output
    assert 'FAILED! => {"changed": false' in output
    assert re.search(r"^currents +: ok=0 +changed=0", output, re.MULTILINE)


def test_a_censored_result_says_only_that():
    lines = failure_lines({"censored": "x", "msg": CANARY, "stderr": CANARY})
    assert lines == ["(hidden: the task handles a secret)"]


def test_a_failure_shows_the_end_of_a_long_error_output():
    lines = failure_lines({"msg": "it failed", "stderr": "\n".join(map(str, range(100))), "rc": 4})
    assert lines[0] == "it failed"
    assert "  (80 lines before)" in lines
    assert lines[-2:] == ["  99", "exit status 4"]


def test_a_failure_without_any_text_says_so():
    assert failure_lines({}) == ["(the task gave no message)"]


def test_short_output_is_whole():
    assert tail("a\nb\n\n") == ["a", "b"]
    assert tail(None) == []


def test_restarts_of_service_modules_count_too():
    result = {"changed": True, "name": "cron", "state": "started"}
    done = restarts_in(result, "ansible.builtin.systemd_service", "restarted", "task Restart cron")
    assert done == [("cron", "restart", "task Restart cron")]
    assert restarts_in(result, "ansible.builtin.systemd_service", "started", "") == []
    assert restarts_in({**result, "changed": False}, "systemd", "restarted", "") == []


def test_a_dry_run_names_a_unit_once_with_all_reasons():
    restarts = [("web1", "a.service", "restart", why) for why in ("release b", "x changed", "release b", "")]
    others = [("web2", "a.service", "restart", ""), ("web1", "a.service", "stop", "its socket changes")]
    assert at_once([*restarts, *others]) == [("web1", "a.service", "restart", "release b; x changed"), *others]


def test_restarts_in_items_of_a_loop_are_found():
    entry = {"unit": "a.service", "action": "reload", "why": "new"}
    assert restarts_in({"results": [{"restarts": [entry]}]}, "x", None, "") == [("a.service", "reload", "new")]


def test_tables_are_aligned():
    assert table([("a", 1), ("bbb", 22)], right=[1]) == ["a     1", "bbb  22"]


def test_counting_knows_one_and_many():
    assert (counted(1, "host"), counted(2, "host")) == ("1 host", "2 hosts")


def test_the_table_of_hosts_is_for_more_than_one_and_has_those_that_failed_early():
    one = {"release": "v1", "note": ""}
    assert host_rows({"a": one}, ["a"]) == []
    assert host_rows({"b": one}, ["b", "a"]) == [
        ("Host", "Release", ""),
        ("a", "as before", "failed before its release was looked at"),
        ("b", "v1", ""),
    ]

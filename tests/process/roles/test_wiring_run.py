"""Real runs read group_vars, begin with the checks, and hand over to the first look what it asks of a host."""

from __future__ import annotations

import grp
import json
import os
import pwd
import re
import sys

import pytest

from tests.support.ansible_run import REPOSITORY, ansible
from tests.support.repository import copy_of_repository

PLAIN = {"ANSIBLE_STDOUT_CALLBACK": "default", "ANSIBLE_NOCOLOR": "1"}


def play(directory, *words, **environment):
    """Run playbooks in a directory; return exit status and output."""
    configuration = {"ANSIBLE_CONFIG": str(directory / "ansible.cfg")}
    return ansible("ansible-playbook", *words, directory=directory, **{**PLAIN, **configuration, **environment})


@pytest.mark.parametrize("name", ["playbooks/deploy.yml", "site.yml"])
def test_the_playbook_reads_group_vars_and_refuses_a_misspelt_variable_before_it_connects(tmp_path, name):
    # One of each place that playbooks lie in; all of them are asked in tests/unit/roles/test_wiring.py.
    status, said = play(copy_of_repository(tmp_path, "app_prot: 1"), name)
    assert status == 2, said
    assert "app_prot" in said
    assert "app_port" in said, "it says what was meant"
    assert "UNREACHABLE" not in said
    assert "Look at the host" not in said


def test_the_same_settings_without_the_misspelling_are_accepted(tmp_path):
    # The refusal above is of the misspelling alone: without it the run goes on to connect, here to a closed port.
    closed = ("-e", "ansible_host=127.0.0.1 ansible_port=1")
    _, said = play(copy_of_repository(tmp_path), "playbooks/validate.yml", *closed)
    assert "app_prot" not in said
    assert "UNREACHABLE" in said, said


def test_a_part_of_the_inventory_that_cannot_be_read_stops_the_run(tmp_path):
    copy = copy_of_repository(tmp_path)
    (copy / "broken.yml").write_text("all:\n  hosts: [\n")
    inventory = ("-i", "inventory/hosts.yml", "-i", "broken.yml")
    status, said = play(copy, "playbooks/validate.yml", *inventory, "-e", "ansible_port=1")
    assert status != 0
    assert "broken.yml" in said
    assert "TASK" not in said, "the hosts of the other part are not taken for all there are"


def test_who_has_never_been_worked_for_by_ansible_is_not_warned_of_it(tmp_path):
    home, wanted = tmp_path / "home", tmp_path / "file"
    home.mkdir()
    me, ours = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name
    file = {"path": str(wanted), "content": "1", "mode": "0600", "owner": me, "group": ours}
    words = ("probe", "-i", "probe,", "-c", "local", "-m", "config_files", "-a", json.dumps({"files": [file]}))
    # The controller's own files elsewhere: they would make the directory that a host does not have.
    elsewhere = {"HOME": str(home), "ANSIBLE_LOCAL_TEMP": str(tmp_path / "controller"), "ANSIBLE_PIPELINING": "1"}
    status, said = ansible("ansible", *words, **PLAIN, **elsewhere)
    assert status == 0, said
    assert wanted.read_text() == "1"
    assert "WARNING" not in said


# Stands in for the module that looks at a host, and says what it was asked.
ASKED = """
import json
from ansible.module_utils.basic import AnsibleModule
OPTIONS = "name user tunnel_user port memory_max memory_limits adopting look look_units look_key".split()
SHOWN = ("name", "user", "tunnel_user", "memory_limits")
module = AnsibleModule({name: {"type": "raw"} for name in OPTIONS})
module.fail_json(msg="asked " + json.dumps({name: module.params[name] for name in SHOWN}))
"""


TUNNEL = {"ngrok_authtoken": "a" * 40, "ngrok_domain": "currents.example.org", "ngrok_user": "agent"}
LIMITS = {"service_memory_limits": "best_effort"}
#: Name of a host -> its settings, and what the look at it must be asked: name, user, tunnel_user, memory_limits.
LOOKS = {
    "plain": ({}, ("currents", "currents", "", "required")),
    "user": ({"app_user": "runner"}, ("currents", "runner", "", "required")),
    "tunnel": (TUNNEL, ("currents", "currents", "agent", "required")),
    "unlimited": (LIMITS, ("currents", "currents", "", "best_effort")),
    # A balancer runs no app, but the role host makes the user there too.
    "balancer": (
        {**LIMITS, "app_user": "runner", "balancer_backends": ["web"]},
        ("haproxy", "runner", "", "best_effort"),
    ),
}


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """One run that looks at a host of each kind: what the look was asked, by host."""
    top = tmp_path_factory.mktemp("looks")
    (top / "modules").mkdir()
    (top / "modules/preflight.py").write_text(ASKED)
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_become": False}
    hosts = {name: {**here, "app_source": "examples/currents", **settings} for name, (settings, _) in LOOKS.items()}
    hosts["web"] = {"app_source": "examples/currents", "ansible_host": "192.0.2.1"}
    content = {"all": {"hosts": hosts, "children": {"balancers": {"hosts": {"balancer": {}}}}}}
    (top / "hosts.yml").write_text(json.dumps(content))
    (top / "group_vars").symlink_to(REPOSITORY / "group_vars")
    words = ("playbooks/validate.yml", "-i", top / "hosts.yml", "--limit", f"localhost,{','.join(LOOKS)}")
    _, said = play(REPOSITORY, *words, ANSIBLE_LIBRARY=f"{top / 'modules'}:{REPOSITORY / 'plugins/modules'}")
    found = re.findall(r"fatal: \[(\w+)\]: FAILED! => (\{.*\})", said)
    assert len(found) == len(LOOKS), said
    return {host: json.loads(answer)["msg"] for host, answer in found}


@pytest.mark.parametrize("host", LOOKS)
def test_the_look_at_the_host_is_told_whose_login_would_change_and_whether_limits_are_required(asked, host):
    wanted = dict(zip(("name", "user", "tunnel_user", "memory_limits"), LOOKS[host][1], strict=True))
    assert asked[host] == f"asked {json.dumps(wanted)}"

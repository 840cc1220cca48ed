"""The playbooks read group_vars, begin with the checks, and gather no facts: shown by Ansible itself."""

from __future__ import annotations

import grp
import json
import os
import pwd
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from plugins.module_utils.site_rules import SITE_SWITCHES
from tests.unit.rendering import REPOSITORY, group_vars, options, read_yaml, value_of

PLAYBOOKS = [*sorted((REPOSITORY / "playbooks").glob("*.yml")), REPOSITORY / "site.yml"]
NAMES = [str(path.relative_to(REPOSITORY)) for path in PLAYBOOKS]
INVENTORIES = sorted(path.parent for path in (REPOSITORY / "molecule").glob("*/inventory/hosts.yml"))
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")},
    "ANSIBLE_STDOUT_CALLBACK": "default",
    "ANSIBLE_NOCOLOR": "1",
}
# Nobody answers there (RFC 5737); a run that got so far would wait for the connection's timeout.
HOST = "all:\n  hosts:\n    probe:\n      ansible_host: 192.0.2.1\n      app_source: examples/currents\n"


def ansible(program, directory, *words, **environment):
    """Run one of Ansible's programs in a directory, within the time that a run without a connection needs."""
    path = Path(sys.executable).with_name(program)
    environment = ENVIRONMENT | environment
    return subprocess.run(
        [path, *words], cwd=directory, env=environment, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The repository as it is, with a misspelt variable beside the others in group_vars."""
    top = tmp_path_factory.mktemp("repository")
    for name in ("ansible.cfg", "roles", "plugins", "sitectl", "examples"):
        (top / name).symlink_to(REPOSITORY / name)
    shutil.copy(REPOSITORY / "site.yml", top)
    for name in ("playbooks", "group_vars"):
        shutil.copytree(REPOSITORY / name, top / name, symlinks=True)
    (top / "group_vars/all/zz_probe.yml").write_text("---\napp_prot: 1\n")
    (top / "inventory").mkdir()
    (top / "inventory/group_vars").symlink_to((REPOSITORY / "inventory/group_vars").readlink())
    (top / "inventory/hosts.yml").write_text(HOST)
    return top


@pytest.fixture(scope="module")
def runs(copy):
    """What each playbook says in that copy; two at a time, as each takes a second or two."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        done = pool.map(lambda name: ansible("ansible-playbook", copy, name), NAMES)
        return dict(zip(NAMES, done, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_the_playbook_reads_group_vars_and_refuses_a_misspelt_variable_before_it_connects(runs, name):
    said = runs[name].stdout + runs[name].stderr
    assert runs[name].returncode == 2, said
    assert "app_prot" in said
    assert "app_port" in said, "it says what was meant"
    assert "UNREACHABLE" not in said
    assert "Look at the host" not in said


def test_the_same_settings_without_the_misspelling_are_accepted(copy):
    probe = copy / "group_vars/all/zz_probe.yml"
    probe.write_text("---\n")
    # The refusal above is of the misspelling alone: without it the run goes on to connect, here to a closed port.
    done = ansible("ansible-playbook", copy, "playbooks/validate.yml", "-e", "ansible_host=127.0.0.1 ansible_port=1")
    said = done.stdout + done.stderr
    assert "app_prot" not in said
    assert "UNREACHABLE" in said, said


@pytest.mark.parametrize("directory", INVENTORIES, ids=lambda path: path.parent.name)
def test_the_inventory_of_the_scenario_sees_group_vars(directory):
    done = ansible("ansible-inventory", REPOSITORY, "-i", str(directory), "--list")
    assert done.returncode == 0, done.stderr
    hosts = json.loads(done.stdout)["_meta"]["hostvars"]
    assert hosts
    for name, variables in hosts.items():
        assert variables["service_port"] == "{{ app_port }}", name


def test_there_are_scenarios_with_an_inventory():
    assert INVENTORIES


@pytest.mark.parametrize("path", PLAYBOOKS, ids=NAMES)
def test_the_playbook_refuses_bad_settings_first(path):
    first = read_yaml(path)[0]
    # site.yml has it from the first playbook that it imports.
    while path.name != "validate.yml":
        path = path.parent / first["ansible.builtin.import_playbook"]
        first = read_yaml(path)[0]
    assert first["hosts"] == "localhost"


@pytest.mark.parametrize("path", PLAYBOOKS, ids=NAMES)
def test_no_play_gathers_facts(path):
    assert [play["name"] for play in read_yaml(path) if "hosts" in play and play.get("gather_facts") is not False] == []


@pytest.mark.parametrize("path", PLAYBOOKS, ids=NAMES)
def test_every_play_says_whether_it_becomes_root(path):
    assert [play["name"] for play in read_yaml(path) if "hosts" in play and "become" not in play] == []


def test_what_is_refused_on_one_host_stops_the_run_on_all():
    checks = [play for play in read_yaml(REPOSITORY / "playbooks/validate.yml") if play["hosts"] == "all"]
    assert len(checks) == 2, "of the settings, and of the hosts themselves"
    assert [play["name"] for play in checks if play.get("any_errors_fatal") is not True] == []


def installs(play):
    """Tell whether a play runs a whole role, and not only some of its tasks."""
    roles = [task.get("ansible.builtin.import_role", {}) for task in play.get("tasks", [])]
    return any(role and "tasks_from" not in role for role in roles)


def test_two_sites_on_one_machine_take_turns():
    installing = [play for path in PLAYBOOKS for play in read_yaml(path) if installs(play)]
    assert [play["name"] for play in installing if play.get("throttle") != "{{ site_throttle }}"] == []
    assert len(installing) >= 4


def test_the_settings_are_checked_once_in_a_run():
    (check,) = [
        play for play in read_yaml(REPOSITORY / "playbooks/validate.yml") if play["name"] == "Check the settings"
    ]
    assert [task["when"] for task in check["tasks"]] == [f"{check['tasks'][0]['register']} is not defined"]
    imported = [REPOSITORY / play["ansible.builtin.import_playbook"] for play in read_yaml(REPOSITORY / "site.yml")]
    tasks = [task for path in imported for play in read_yaml(path) for task in play.get("tasks", [])]
    whole = [
        role for task in tasks if "tasks_from" not in (role := task.get("ansible.builtin.import_role", {})) and role
    ]
    assert len(whole) >= 6
    assert [role["name"] for role in whole if role.get("rolespec_validate") is not False] == []


def test_a_run_of_the_site_takes_the_lock_of_a_deploy_with_its_first_look():
    first = read_yaml(REPOSITORY / "site.yml")[0]
    assert first["vars"] == {"__site_deploys": True}


def test_a_part_of_the_inventory_that_cannot_be_read_stops_the_run(copy):
    (copy / "broken.yml").write_text("all:\n  hosts: [\n")
    inventory = ("-i", "inventory/hosts.yml", "-i", "broken.yml")
    done = ansible("ansible-playbook", copy, "playbooks/validate.yml", *inventory, "-e", "ansible_port=1")
    assert done.returncode != 0
    assert "broken.yml" in done.stdout + done.stderr
    assert "TASK" not in done.stdout, "the hosts of the other part are not taken for all there are"


def test_a_host_with_another_key_than_before_is_refused():
    done = ansible("ansible-config", REPOSITORY, "dump", "--format", "json")
    (checking,) = [one for one in json.loads(done.stdout) if one.get("name") == "HOST_KEY_CHECKING"]
    assert checking["value"] is True


def test_the_site_imports_every_playbook_that_installs_a_role():
    imported = {play["ansible.builtin.import_playbook"] for play in read_yaml(REPOSITORY / "site.yml")}
    installing = {f"playbooks/{path.name}" for path in PLAYBOOKS[:-1] if any(map(installs, read_yaml(path)))}
    assert len(installing) >= 4
    # It takes an app over once; what the site needs of it comes with the others.
    assert installing - {"playbooks/adopt.yml"} <= imported


def test_every_variable_of_group_vars_is_known_to_a_role_and_can_be_evaluated():
    for name in group_vars():
        role = name.partition("_")[0]
        if role == "site" or name in SITE_SWITCHES:
            continue
        assert name in options(role), name
        assert value_of(role, name, wired=True) is not None, name


@pytest.mark.parametrize(
    ("role", "name", "value"),
    [
        ("service", "service_port", 8000),
        ("service", "service_release_dir", "/srv/wires/current"),
        ("service", "service_config_dir", "/etc/wires"),
        ("monitor", "monitor_url", "http://127.0.0.1:8000/health"),
        ("monitor", "monitor_service", "wires.service"),
        ("logrotate", "logrotate_paths", ["/var/log/wires/*.log"]),
        ("logrotate", "logrotate_unit", "wires.service"),
        ("host", "host_user", "wires"),
        ("ngrok", "ngrok_upstream_url", "http://127.0.0.1:8000"),
    ],
)
def test_name_and_port_of_the_app_reach_every_role(role, name, value):
    assert value_of(role, name, wired=True, app_name="wires", app_port=8000) == value


def test_that_roles_install_what_they_need_is_shown_on_machines_without_it():
    def without(scenario, host):
        hosts = read_yaml(REPOSITORY / "molecule" / scenario / "inventory/hosts.yml")["all"]["hosts"]
        return hosts[host]["lab_without"]

    assert without("default", "debian13") == ["cron", "logrotate"]
    assert without("adopt", "currents") == "{{ lab_packages }}"


def test_who_has_never_been_worked_for_by_ansible_is_not_warned_of_it(tmp_path):
    home, wanted = tmp_path / "home", tmp_path / "file"
    home.mkdir()
    me, ours = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name
    file = {"path": str(wanted), "content": "1", "mode": "0600", "owner": me, "group": ours}
    words = ("probe", "-i", "probe,", "-c", "local", "-m", "config_files", "-a", json.dumps({"files": [file]}))
    # The controller's own files elsewhere: they would make the directory that a host does not have.
    elsewhere = {"HOME": str(home), "ANSIBLE_LOCAL_TEMP": str(tmp_path / "controller"), "ANSIBLE_PIPELINING": "1"}
    done = ansible("ansible", REPOSITORY, *words, **elsewhere)
    assert done.returncode == 0, done.stdout + done.stderr
    assert wanted.read_text() == "1"
    assert "WARNING" not in done.stdout + done.stderr


# Stands in for the module that looks at a host, and says what it was asked.
ASKED = """
import json
from ansible.module_utils.basic import AnsibleModule
OPTIONS = "name user tunnel_user port memory_max memory_limits adopting look look_units look_key".split()
SHOWN = ("name", "user", "tunnel_user", "memory_limits")
module = AnsibleModule({name: {"type": "raw"} for name in OPTIONS})
module.fail_json(msg="asked " + json.dumps({name: module.params[name] for name in SHOWN}))
"""


LIMITS, LIMITS_ASKED = {"service_memory_limits": "best_effort"}, {"memory_limits": "best_effort"}
TUNNEL = {"ngrok_authtoken": "a" * 40, "ngrok_domain": "currents.example.org", "ngrok_user": "agent"}


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, {"name": "currents", "user": "currents", "tunnel_user": ""}),
        ({"app_user": "runner"}, {"name": "currents", "user": "runner", "tunnel_user": ""}),
        (TUNNEL, {"name": "currents", "user": "currents", "tunnel_user": "agent"}),
        (LIMITS, {"name": "currents", "user": "currents", "tunnel_user": "", **LIMITS_ASKED}),
        # A balancer runs no app, but the role host makes the user there too.
        ({"app_user": "runner", "balances": True}, {"name": "haproxy", "user": "runner", "tunnel_user": ""}),
        ({**LIMITS, "balances": True}, {"name": "haproxy", "user": "currents", "tunnel_user": "", **LIMITS_ASKED}),
    ],
)
def test_the_look_at_the_host_is_told_whose_login_would_change_and_whether_limits_are_required(
    copy, tmp_path, settings, wanted
):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/preflight.py").write_text(ASKED)
    here = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "app_source": "examples/currents",
    }
    hosts = {"probe": {**here, "ansible_become": False, **settings}}
    content = {"all": {"hosts": hosts}}
    if hosts["probe"].pop("balances", False):
        hosts["web"] = {**here, "ansible_host": "192.0.2.1"}
        hosts["probe"]["balancer_backends"] = ["web"]
        content["all"]["children"] = {"balancers": {"hosts": {"probe": {}}}}
    (tmp_path / "hosts.yml").write_text(json.dumps(content))
    (tmp_path / "group_vars").symlink_to(REPOSITORY / "group_vars")
    library = f"{tmp_path / 'modules'}:{REPOSITORY / 'plugins/modules'}"
    words = ("playbooks/validate.yml", "-i", str(tmp_path / "hosts.yml"), "--limit", "localhost,probe")
    done = ansible("ansible-playbook", REPOSITORY, *words, ANSIBLE_LIBRARY=library)
    wanted = {"memory_limits": "required", **wanted}
    wanted = {name: wanted[name] for name in ("name", "user", "tunnel_user", "memory_limits")}
    assert f"asked {json.dumps(wanted)}" in done.stdout.replace('\\"', '"'), done.stdout + done.stderr

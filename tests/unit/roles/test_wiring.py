"""The playbooks read group_vars, begin with the checks, and gather no facts: as Ansible's own code reads them."""

from __future__ import annotations

import pytest
from ansible.config.manager import ConfigManager

from plugins.module_utils.site_rules import SITE_SWITCHES
from tests.support.repository import copy_of_repository
from tests.support.site_validate import Inventory
from tests.unit.rendering import REPOSITORY, group_vars, options, read_yaml, value_of

PLAYBOOKS = [*sorted((REPOSITORY / "playbooks").glob("*.yml")), REPOSITORY / "site.yml"]
NAMES = [str(path.relative_to(REPOSITORY)) for path in PLAYBOOKS]
INVENTORIES = sorted(path.parent for path in (REPOSITORY / "molecule").glob("*/inventory/hosts.yml"))


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The repository as it is, with a misspelt variable beside the others in group_vars."""
    return copy_of_repository(tmp_path_factory.mktemp("repository"), "app_prot: 1")


@pytest.mark.parametrize("name", NAMES)
def test_the_playbook_reads_group_vars_and_refuses_a_misspelt_variable_before_it_connects(copy, name):
    path = copy / name
    inventory = Inventory(copy / "inventory/hosts.yml", path.parent)
    refused = inventory.checked_by(path, "probe")
    assert refused["failed"]
    assert "unknown variable app_prot, did you mean app_port?" in refused["msg"]
    first, check, *_ = inventory.playbook(path)
    assert first.hosts == "localhost"
    assert check.hosts == "all"
    assert [task.action for block in check.compile() for task in block.block if not task.implicit] == ["site_validate"]


@pytest.mark.parametrize("directory", INVENTORIES, ids=lambda path: path.parent.name)
def test_the_inventory_of_the_scenario_sees_group_vars(directory):
    inventory = Inventory(directory, directory)
    hosts = inventory.manager.get_hosts()
    assert hosts
    for host in hosts:
        assert inventory.raw(host.name)["service_port"] == "{{ app_port }}", host.name


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


def test_a_host_with_another_key_than_before_is_refused():
    configuration = ConfigManager(str(REPOSITORY / "ansible.cfg"))
    value, origin = configuration.get_config_value_and_origin("HOST_KEY_CHECKING")
    assert (value, origin) == (True, str(REPOSITORY / "ansible.cfg"))


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

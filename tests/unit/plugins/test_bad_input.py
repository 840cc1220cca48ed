"""Bad settings are refused: the action plugin's own answer for real inventories, without a run of Ansible."""

from __future__ import annotations

import re

import pytest

from tests.support.bad_settings import CASES, REPOSITORY, VAULT_TEXT, Encrypted, write_inventory
from tests.support.site_validate import Inventory


@pytest.mark.parametrize("case", CASES)
def test_bad_value_is_named_with_what_is_allowed(tmp_path, case):
    settings, wanted = CASES[case]
    message = Inventory(write_inventory(tmp_path, {case: settings, "sound": {}})).message(case)
    assert re.search(wanted, message + "\n"), message
    assert message.startswith(f"1 problem in the settings of {case}; nothing was touched:"), "one mistake is told once"


def test_sound_settings_beside_bad_ones_are_not_blamed(tmp_path):
    hosts = {name: settings for name, (settings, _) in CASES.items()}
    assert Inventory(write_inventory(tmp_path, {**hosts, "sound": {}})).message("sound") == ""


def test_command_line_values_are_refused_together(tmp_path):
    given = {"app_port": "70000", "service_memory_max": "banana"}
    message = Inventory(write_inventory(tmp_path, {"currents": {}}), extra=given).message("currents")
    assert message.startswith("2 problems in the settings of currents; nothing was touched:")
    assert re.search(r'app_port +is "70000"', message), message
    assert re.search(r'service_memory_max +is "banana"', message), message


def test_digits_from_the_command_line_are_a_number(tmp_path):
    assert Inventory(write_inventory(tmp_path, {"currents": {}}), extra={"app_port": "5556"}).message("currents") == ""


def test_who_logs_in_is_also_known_from_the_command_line(tmp_path):
    inventory = write_inventory(tmp_path, {"currents": {"app_user": "ann"}})
    message = Inventory(inventory, user="ann").message("currents")
    assert message.startswith("1 problem in the settings of currents")
    assert re.search(r"app_user +is ann, who logs in here", message), message
    assert Inventory(inventory, user="bob").message("currents") == ""


def test_two_sites_on_one_machine_need_their_own_name_and_port(tmp_path):
    same = {"ansible_host": "192.0.2.77", "app_name": "currents", "app_port": 5555}
    inventory = Inventory(write_inventory(tmp_path, {"one": same, "two": dict(same)}))
    for host in ("one", "two"):
        message = inventory.message(host)
        assert message.count("one machine") == 2, message
        assert "app_port" in message
        assert "app_name" in message


def test_two_sites_on_one_machine_say_the_same_of_it(tmp_path):
    same = {"ansible_host": "192.0.2.77", "host_swap_size": 0}
    first = {**same, "app_name": "one", "app_port": 5555, "host_timezone": "Europe/Berlin"}
    second = {**same, "app_name": "two", "app_port": 5556, "host_timezone": "Etc/UTC", "host_packages": ["jq"]}
    second["host_swap_size"] = "0"
    inventory = Inventory(write_inventory(tmp_path, {"one": first, "two": second}))
    messages = {host: inventory.message(host) for host in ("one", "two")}
    wanted = r"host_timezone +is Europe/Berlin on one and Etc/UTC on two, which are one machine"
    assert re.search(wanted, messages["one"]), messages
    assert "which are one machine" in messages["two"]
    assert [message.startswith("1 problem in the settings of") for message in messages.values()] == [True, True]


def test_what_a_group_is_given_in_vain_in_the_inventory_is_refused(tmp_path):
    vault = Encrypted(VAULT_TEXT)
    web = {"hosts": {"one": None}, "vars": {"app_port": 6000, "app_module": "shop:app", "release_watch_seconds": 8}}
    inventory = write_inventory(
        tmp_path,
        {"one": {"app_module": "other:app"}},
        vars={"ansible_user": "admin", "service_memory_max": "2G", "ngrok_authtoken": vault},
        children={"web": web},
    )
    message = Inventory(inventory).message("one")
    of_web = r"app_port +is set below vars: of web, .* below a host, or in group_vars/web.yml"
    assert re.search(of_web, message), message
    assert re.search(r"service_memory_max +is set below vars: of all, .* in group_vars/GROUP.yml", message), message
    # A host's own value counts; and the roles' defaults, which group_vars does not repeat, give way to a group.
    assert "app_module" not in message
    assert "release_watch_seconds" not in message
    assert "ngrok_authtoken" in message
    assert message.startswith("3 problems in the settings of one"), message


def test_an_inventory_without_group_vars_beside_it_is_told_what_it_lacks(tmp_path):
    inventory = write_inventory(tmp_path, {"one": {}})
    (tmp_path / "group_vars").unlink()
    message = Inventory(inventory, base=tmp_path).message("one")
    assert f"ln -s {REPOSITORY}/group_vars {tmp_path}/group_vars" in message


@pytest.mark.parametrize("playbook", ["rollback", "releases", "maintenance"])
def test_what_brings_nothing_needs_no_code_here_and_no_room_there(tmp_path, playbook):
    path = REPOSITORY / f"playbooks/{playbook}.yml"
    hosts = {"one": {"app_source": "no/such/directory", "app_wheelhouse": "nor/this"}}
    inventory = write_inventory(tmp_path, hosts)
    given = {"maintenance": "on"}
    sound = Inventory(inventory, path.parent, given)
    assert not sound.checked_by(path, "one").get("failed")
    assert sound.runs(path, "preflight", "one") is False
    assert Inventory(inventory, path.parent, given).runs(path.with_name("deploy.yml"), "preflight", "one") is True
    refused = Inventory(inventory, path.parent, {"app_port": "70000"}).checked_by(path, "one")
    assert refused["failed"]
    assert re.search(r'app_port +is "70000"', refused["msg"]), refused


def test_what_brings_code_needs_it_here(tmp_path):
    path = REPOSITORY / "playbooks/deploy.yml"
    inventory = Inventory(write_inventory(tmp_path, {"one": {"app_source": "no/such/directory"}}), path.parent)
    assert "app_source" in inventory.checked_by(path, "one")["msg"]

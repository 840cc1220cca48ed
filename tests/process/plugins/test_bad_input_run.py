"""Bad settings are refused by the real playbook before a connection is opened; the hosts cannot be reached."""

from __future__ import annotations

import re

import pytest

from tests.support.ansible_run import ansible
from tests.support.bad_settings import CASES, write_inventory

CANARY = "canary5bd1e1b7"
#: One of each kind: a form, a type, a relation, a name, text that breaks lines, templates, the vault, who logs in. The
#: others are asked of the plugin itself, in tests/unit/plugins/test_bad_input.py.
KINDS = (
    "port-text",
    "text-for-list",
    "front-half",
    "graceful-long",
    "name-unit-line",
    "huge",
    "typo",
    "undefined",
    "vault-plain",
    "vault-locked",
    "user-person",
    "tunnel-upstream",
)


def validate(inventory, *arguments, playbook="validate"):
    """Run a playbook, which begins with validate.yml; return its exit status and all that it printed."""
    return ansible("ansible-playbook", f"playbooks/{playbook}.yml", "-i", inventory, *arguments, ANSIBLE_TIMEOUT="1")


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """One run: host name -> its message; the key "" holds the whole output."""
    hosts = {name: CASES[name][0] for name in KINDS}
    hosts["sound"] = {}
    status, output = validate(write_inventory(tmp_path_factory.mktemp("inventory"), hosts))
    assert status != 0, output
    parts = re.split(r"^fatal: \[([^]]+)\]: FAILED!$", output, flags=re.MULTILINE)
    return {"": output, **dict(zip(parts[1::2], parts[2::2], strict=True))}


@pytest.mark.parametrize("case", KINDS)
def test_bad_value_is_named_once_with_what_is_allowed(refused, case):
    assert case in refused, refused[""]
    assert re.search(CASES[case][1], refused[case]), refused[case]
    assert "1 problem in the settings of" in refused[case], refused[case]


def test_sound_settings_beside_bad_ones_are_not_blamed(refused):
    assert "sound" not in refused, refused["sound"]


def test_nothing_is_contacted_or_changed_when_settings_are_bad(refused):
    assert "UNREACHABLE" not in refused[""]
    assert len(re.findall(r"changed=0 +unreachable=0", refused[""])) == len(KINDS) + 1


def test_the_command_line_is_refused_together_with_the_inventory(tmp_path):
    inventory = write_inventory(tmp_path, {"currents": {"app_user": "ann"}})
    status, output = validate(inventory, "--user", "ann", "-e", "app_port=70000", "-e", "service_memory_max=banana")
    assert status != 0
    assert "3 problems in the settings of currents; nothing was touched:" in output
    assert re.search(r'app_port +is "70000"', output), output
    assert re.search(r'service_memory_max +is "banana"', output), output
    assert re.search(r"app_user +is ann, who logs in here", output), output
    assert "UNREACHABLE" not in output


def test_digits_from_the_command_line_are_a_number_and_reach_the_hosts(tmp_path):
    inventory = write_inventory(tmp_path, {"currents": {"app_user": "ann"}})
    status, output = validate(inventory, "--user", "bob", "-e", "app_port=5556")
    assert status != 0
    assert "UNREACHABLE" in output, output


def test_a_rollback_needs_no_code_here_and_no_room_there(tmp_path):
    inventory = write_inventory(tmp_path, {"one": {"app_source": "no/such/directory", "app_wheelhouse": "nor/this"}})
    status, output = validate(inventory, "-v", playbook="rollback")
    assert status != 0, "nobody answers there"
    assert "in the settings of one" not in output, output
    assert re.search(r"^TASK \[Look at the host [^\n]*\n+skipping: \[one\]", output, re.MULTILINE), output


def test_no_secret_is_printed_at_high_verbosity(tmp_path):
    secrets = {
        "ngrok_authtoken": f"{CANARY} with blanks",
        "app_secrets": {"A-B": CANARY, "LIST": [CANARY], "LINES": CANARY},
        "app_source_type": "git",
        "app_source": f"https://me:{CANARY}@example.org/app.git",
        "app_version": "v1",
        "app_index_url": f"https://me:{CANARY}@example.org/simple",
    }
    status, output = validate(write_inventory(tmp_path, {"currents": secrets}), "-vvv")
    assert status != 0
    for name in ("ngrok_authtoken", "app_secrets", "app_source", "app_index_url"):
        assert re.search(rf"{name} +\S", output), output
    assert CANARY not in output


def test_an_empty_inventory_is_a_failure(tmp_path):
    status, output = validate(write_inventory(tmp_path, {}))
    assert status != 0
    assert "No host in the inventory" in output

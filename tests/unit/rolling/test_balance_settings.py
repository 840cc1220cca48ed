"""Bad settings of a balancer are refused, sound ones are not: what the action plugin itself answers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from plugins.filter.site import FilterModule
from plugins.module_utils.site_balance import balance_faults
from tests.support.site_validate import Inventory

REPOSITORY = Path(__file__).resolve().parents[3]
FILTERS = FilterModule().filters()
SOUND = {"balancer_backends": ["web1", "web2"]}


def inventory(balancer, **webs):
    """Return an inventory of two hosts and a balancer; keyword arguments are more settings of a host."""
    hosts = {
        f"web{number}": {"app_source": "examples/currents", "ansible_host": f"192.0.2.{number}"} for number in (1, 2)
    }
    for name, more in webs.items():
        hosts[name] |= more
    lb = {"ansible_host": "192.0.2.9", **balancer}
    return {"all": {"hosts": hosts, "children": {"balancers": {"hosts": {"lb": lb}}}}}


@pytest.fixture
def validate(tmp_path):
    """Return what is wrong with the settings of each host of an inventory."""

    def run(content, **extra):
        (tmp_path / "group_vars").symlink_to(REPOSITORY / "group_vars")
        (tmp_path / "hosts.yml").write_text(yaml.safe_dump(content))
        found = Inventory(tmp_path, extra=extra)
        return [message for host in ("web1", "web2", "lb") if (message := found.message(host))]

    return run


CASES = {
    "misspelt": (
        inventory({"balancer_backends": ["web1", "wbe2"]}),
        r"balancer_backends +names wbe2, which the inventory does not have, did you mean web2\? must be a list",
    ),
    "nobody": (
        inventory({"balancer_backends": []}),
        r"balancer_backends +is a list of 0: .* for example \[web1, web2\]",
    ),
    "unsaid": (
        inventory({}),
        r"balancer_backends +is not set, but lb is in the group balancers: must be .* \[web1, web2\]",
    ),
    "itself": (
        inventory({"balancer_backends": ["web1", "lb"]}),
        r"balancer_backends +names lb, which is in the group balancers and runs no app: .* \[web1, web2\]",
    ),
    "not in the group": (
        inventory(SOUND, web1={"balancer_backends": ["web2"]}),
        r"balancer_backends +is set, but web1 is not in the group balancers: put it there",
    ),
    "two apps": (
        inventory(SOUND, web2={"app_name": "shop"}),
        r"app_name +is currents on web1, shop on web2: must be the same behind lb",
    ),
    "two health paths": (
        inventory(SOUND, web2={"app_health_path": "/up"}),
        r"app_health_path +is /health on web1, /up on web2: must be the same",
    ),
    "loopback": (
        inventory(SOUND, web2={"app_bind_address": "127.0.0.1"}),
        r"app_bind_address +is 127.0.0.1 on web2: lb must reach it, for example 0.0.0.0",
    ),
    "all at once": (
        inventory({**SOUND, "rolling_batch": 2}),
        r"rolling_batch +is 2, but lb has 2 hosts: must be at most 1",
    ),
    "batch of none": (inventory({**SOUND, "rolling_batch": 0}), r"rolling_batch +is 0: must be .* for example 1"),
    "misspelt setting": (
        inventory({**SOUND, "balancer_prot": 80}),
        r"balancer_prot +unknown variable balancer_prot, did you mean balancer_port",
    ),
    "target": (
        inventory(SOUND, web1={"balancer_target": "http://x"}),
        r'balancer_target +is "http://x": must be the address',
    ),
    "drain": (
        inventory(SOUND, web1={"balancer_drain_seconds": -1}),
        r"balancer_drain_seconds +is -1: .* for example 30",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_setting_is_named_with_what_is_allowed(validate, case):
    content, wanted = CASES[case]
    (message,) = validate(content)
    assert re.search(wanted, message), message
    assert message.startswith("1 problem in the settings of"), message


def test_sound_settings_are_accepted_and_those_of_the_app_mean_nothing_on_the_balancer(validate):
    assert validate(inventory(SOUND)) == []


def test_a_balancer_and_an_app_on_one_machine_need_a_port_each(validate):
    (message,) = validate(inventory({**SOUND, "ansible_host": "192.0.2.1"}))
    assert re.search(r"app_port +is 5555 on web1 and on lb, which are one machine", message), message


def test_the_number_of_a_command_line_is_one(validate):
    (message,) = validate(inventory(SOUND), rolling_batch="2")
    assert "rolling_batch  is 2, but lb has 2 hosts" in message


def test_a_single_host_may_stand_behind_a_balancer():
    hosts = {"web1": {"app_name": "a", "app_health_path": "/h", "app_bind_address": "0.0.0.0"}, "lb": {}}
    assert balance_faults("lb", {"balancer_backends": ["web1"], "rolling_batch": 1}, ["lb"], hosts) == []


# What the playbooks ask about the inventory

HOSTVARS = {
    "web1": {"app_name": "a", "app_port": 5555, "app_workers": 2, "app_threads": "4", "ansible_host": "192.0.2.1"},
    "web2": {"app_name": "a", "app_port": "8000", "app_workers": 1, "app_threads": 1, "balancer_target": "10.0.0.2"},
    "other": {"app_name": "b"},
    "lb": {"balancer_backends": ["web1", "web2"], "rolling_batch": 1},
    "lb2": {"balancer_backends": ["web1"], "rolling_batch": "3"},
}


def test_a_host_knows_its_balancers_and_another_has_none():
    of = FILTERS["site_balancers_of"]
    assert of(["lb", "lb2"], HOSTVARS, "web1") == ["lb", "lb2"]
    assert of(["lb", "lb2"], HOSTVARS, "web2") == ["lb"]
    assert of(["lb", "lb2"], HOSTVARS, "other") == of([], HOSTVARS, "web1") == []


def test_a_balancer_knows_where_its_hosts_are_and_how_much_they_can_work_on():
    assert FILTERS["site_servers"](["web1", "web2", "unknown"], HOSTVARS) == [
        {"name": "web1", "address": "192.0.2.1", "port": 5555, "maxconn": 8},
        {"name": "web2", "address": "10.0.0.2", "port": 8000, "maxconn": 1},
    ]
    assert FILTERS["site_servers"]("web1", HOSTVARS) == [], "no list: the checks say so"


def test_a_balancer_takes_name_and_port_from_the_first_host_behind_it():
    assert FILTERS["site_first"](["unknown", "web2"], HOSTVARS, "lb")["app_port"] == "8000"
    assert FILTERS["site_first"]([], HOSTVARS, "other")["app_name"] == "b"


def test_the_most_careful_balancer_says_how_many_take_their_turn_at_once():
    batch = FILTERS["site_batch"]
    assert batch({"balancers": ["lb", "lb2"]}, HOSTVARS) == 1
    assert batch({"balancers": ["lb2"]}, HOSTVARS) == 3
    assert batch({}, HOSTVARS) == batch({"balancers": ["lb"]}, {}) == "100%"

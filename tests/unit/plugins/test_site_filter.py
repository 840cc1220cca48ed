"""Whether two entries of the inventory are one machine."""

from __future__ import annotations

import pytest

from plugins.filter.site import FilterModule

shares = FilterModule().filters()["site_shares_machine"]


@pytest.mark.parametrize(
    ("hostvars", "answer"),
    [
        ({}, False),
        ({"a": {}}, False),
        ({"a": {}, "b": {}}, False),
        ({"a": {"ansible_host": "10.0.0.1"}, "b": {"ansible_host": "10.0.0.1"}}, True),
        ({"a": {"ansible_host": "10.0.0.1"}, "b": {"ansible_host": "10.0.0.2"}}, False),
        ({"10.0.0.1": {}, "b": {"ansible_host": "10.0.0.1"}}, True),
        ({"a": {"ansible_host": "h", "ansible_port": 22}, "b": {"ansible_host": "h"}}, True),
        ({"a": {"ansible_host": "h", "ansible_port": "2201"}, "b": {"ansible_host": "h", "ansible_port": 2201}}, True),
        ({"a": {"ansible_host": "h", "ansible_port": 2201}, "b": {"ansible_host": "h", "ansible_port": 2202}}, False),
        ({"a": {"ansible_host": "x"}, "b": {"ansible_host": "y"}, "c": {"ansible_host": "x"}}, True),
    ],
    ids=[
        "no entries",
        "one entry",
        "two names",
        "one address",
        "two addresses",
        "a name that is the other's address",
        "the usual ssh port, said and unsaid",
        "a port as text and as a number",
        "two machines behind one address",
        "first and last",
    ],
)
def test_entries_are_one_machine_when_address_and_ssh_port_are_the_same(hostvars, answer):
    assert shares(hostvars) is answer


@pytest.mark.parametrize(("address", "answer"), [("0.0.0.0", "127.0.0.1"), ("10.0.0.5", "10.0.0.5")])
def test_the_host_reaches_a_socket_where_it_listens(address, answer):
    assert FilterModule().filters()["site_local_address"](address) == answer


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("/health", "0.0.0.0", "5555", ""), "http://127.0.0.1:5555/health"),
        (("/health", "0.0.0.0", 5555, "/run/sitekeeper/app.http"), "unix:/run/sitekeeper/app.http:/health"),
    ],
)
def test_the_host_asks_the_app_over_its_port_or_its_unix_socket(words, answer):
    assert FilterModule().filters()["site_health_url"](*words) == answer

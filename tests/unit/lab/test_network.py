"""Ports read back from QEMU, addresses, names of the wires."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import network
from lab.errors import LabError

# As QEMU 7.2 prints it.
USERNET = """\
Hub -1 (outside):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[ESTABLISHED]   28       127.0.0.1 32995       10.0.2.15    22     0     0
  TCP[HOST_FORWARD]  11       127.0.0.1 45829       10.0.2.15  5555     0     0
  TCP[HOST_FORWARD]  10       127.0.0.1 32995       10.0.2.15    22     0     0
  UDP[236 sec]       30       10.0.2.15 44010        10.0.2.3    53     0     0
"""


def test_forwards_are_read_from_info_usernet():
    assert network.parse_forwards(USERNET) == {22: 32995, 5555: 45829}
    assert network.parse_forwards(USERNET.replace("\n", "\r\n")) == {22: 32995, 5555: 45829}
    assert network.parse_forwards("") == {}


def test_the_lowest_free_lan_address_is_given():
    assert network.free_lan_address([]) == "10.77.0.11"
    assert network.free_lan_address(["10.77.0.11", "10.77.0.13"]) == "10.77.0.12"


def test_a_full_lan_is_an_error():
    with pytest.raises(LabError, match="lab list"):
        network.free_lan_address([f"10.77.0.{host}" for host in range(256)])


def test_lans_of_other_names_and_labs_use_other_groups():
    endpoints = {network.multicast_endpoint(Path(home), lan) for home in ("/a", "/b") for lan in ("first", "second")}
    assert len(endpoints) == 4
    assert all(endpoint.startswith("239.") for endpoint in endpoints)


def test_network_cards_have_stable_addresses_of_their_own():
    cards = [network.mac_address(Path("/a"), name, card) for name in ("one", "two") for card in ("outside", "lan")]
    assert len(set(cards)) == 4
    assert cards[0] == network.mac_address(Path("/a"), "one", "outside")
    assert cards[0].startswith("52:54:00:")


def test_a_machine_without_lan_has_one_network_file():
    assert len(network.networkd_files("52:54:00:00:00:01", None, None)) == 1
    files = network.networkd_files("52:54:00:00:00:01", "52:54:00:00:00:02", "10.77.0.11")
    assert "Address=10.77.0.11/24" in files["etc/systemd/network/20-lan.network"]
    assert "Gateway" not in files["etc/systemd/network/20-lan.network"]

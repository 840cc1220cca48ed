"""Filters about the inventory as a whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def site_shares_machine(hostvars: Mapping[str, Mapping[str, Any]]) -> bool:
    """Tell whether two entries of the inventory are the same machine: same address and same ssh port.

    Args:
        hostvars: Ansible's ``hostvars``.
    """
    # An INI inventory gives a port as a string, a YAML one as a number.
    machines = [(host.get("ansible_host", name), str(host.get("ansible_port", 22))) for name, host in hostvars.items()]
    return len(set(machines)) < len(machines)


def site_local_address(address: str) -> str:
    """Return the address at which the host itself reaches a socket that listens on `address`."""
    return "127.0.0.1" if address == "0.0.0.0" else address


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"site_shares_machine": site_shares_machine, "site_local_address": site_local_address}

"""Filters about the inventory as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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


def site_health_url(path: str, address: str, port: int | str, listen: str) -> str:
    """Return where the host itself asks how the app is, as the module ``converged_unit`` takes it.

    Args:
        path: of the health check.
        address: that the app's socket listens on.
        port: of that socket.
        listen: path of a Unix socket in its place, or nothing.
    """
    return f"unix:{listen}:{path}" if listen else f"http://{site_local_address(address)}:{port}{path}"


def names_in(backends: object, hostvars: Mapping[str, Any]) -> list[str]:
    """Return the hosts of a list that the inventory has; what is wrong with the rest the checks of settings say."""
    return [str(name) for name in backends if name in hostvars] if isinstance(backends, (list, tuple)) else []


def site_balancers_of(balancers: Iterable[str], hostvars: Mapping[str, Mapping[str, Any]], host: str) -> list[str]:
    """Return the balancers that send visitors to a host.

    Args:
        balancers: the hosts of the group.
        hostvars: Ansible's ``hostvars``.
        host: the inventory's name of it.
    """
    return [name for name in balancers if host in names_in(hostvars[name].get("balancer_backends"), hostvars)]


def site_first(backends: object, hostvars: Mapping[str, Mapping[str, Any]], host: str) -> Mapping[str, Any]:
    """Return the variables of the first host that a balancer sends visitors to; those of `host` for any other."""
    return hostvars[next(iter(names_in(backends, hostvars)), host)]


def site_servers(backends: object, hostvars: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what a balancer has to know of each host that it sends visitors to."""
    return [
        {
            "name": name,
            "address": str(host.get("balancer_target") or host.get("ansible_host") or name),
            "port": int(host["app_port"]),
            # What the app can work on; more would wait in its workers and die with them.
            "maxconn": int(host["app_workers"]) * int(host["app_threads"]),
        }
        for name, host in ((name, hostvars[name]) for name in names_in(backends, hostvars))
    ]


def site_batch(groups: Mapping[str, list[str]], hostvars: Mapping[str, Mapping[str, Any]]) -> int | str:
    """Return how many hosts take their turn at once: what the balancers say, and all where there is none."""
    # A check of the syntax knows no host.
    said = [int(hostvars[name]["rolling_batch"]) for name in groups.get("balancers", ()) if name in hostvars]
    return min(said, default="100%")


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "site_shares_machine": site_shares_machine,
            "site_local_address": site_local_address,
            "site_health_url": site_health_url,
            "site_balancers_of": site_balancers_of,
            "site_first": site_first,
            "site_servers": site_servers,
            "site_batch": site_batch,
        }

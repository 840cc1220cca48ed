"""What the settings of a balancer must be to those of the hosts that it sends visitors to."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from plugins.module_utils.site_forms import as_whole

EXAMPLE = "must be a list of hosts of the inventory, for example [web1, web2]"
#: What all hosts of a site must have in common: variable -> what it is to visitors.
SHARED = {"app_name": "one app", "app_health_path": "one health path"}


def balance_faults(
    host: str, values: Mapping[str, Any], balancers: Collection[str], hosts: Mapping[str, Mapping[str, Any]]
) -> list[tuple[str, str]]:
    """Return (setting, what is wrong with it) of one host.

    Args:
        host: the inventory's name of it.
        values: its settings by name; each of them is sound by itself.
        balancers: the hosts of the group `balancers`.
        hosts: settings of all hosts of the inventory, by name.
    """
    backends = values.get("balancer_backends")
    if host not in balancers:
        fault = f"is set, but {host} is not in the group balancers: put it there, or remove the line"
        return [("balancer_backends", fault)] if backends is not None else []
    if backends is None:
        return [("balancer_backends", f"is not set, but {host} is in the group balancers: {EXAMPLE}")]
    found = []
    for name in backends:
        if name not in hosts:
            near = difflib.get_close_matches(name, hosts, 1)
            meant = f", did you mean {near[0]}?" if near else ""
            found.append(("balancer_backends", f"names {name}, which the inventory does not have{meant} {EXAMPLE}"))
        elif name in balancers:
            fault = f"names {name}, which is in the group balancers and runs no app: {EXAMPLE}"
            found.append(("balancer_backends", fault))
    known = [name for name in backends if name in hosts and name not in balancers]
    for setting, what in SHARED.items():
        if len({str(hosts[name].get(setting)) for name in known}) > 1:
            each = ", ".join(f"{hosts[name].get(setting)} on {name}" for name in known)
            found.append((setting, f"is {each}: must be the same behind {host}, they are {what} to visitors"))
    found += [
        (
            "app_bind_address",
            f"is {hosts[name]['app_bind_address']} on {name}: {host} must reach it, for example 0.0.0.0",
        )
        for name in known
        if str(hosts[name].get("app_bind_address")).startswith("127.")
    ]
    batch = as_whole(values.get("rolling_batch"))
    if batch is not None and 1 < len(backends) <= batch:
        fault = f"is {batch}, but {host} has {len(backends)} hosts: must be at most {len(backends) - 1}"
        found.append(("rolling_batch", f"{fault}, or nobody serves"))
    return found

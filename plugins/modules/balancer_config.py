#!/usr/bin/python
"""Ansible module: let a running HAProxy take the configuration that is on the disk."""

from __future__ import annotations

DOCUMENTATION = r"""
module: balancer_config
short_description: Reloads an HAProxy that runs with another configuration than the one on the disk
description:
  - The configuration says in its C(description) which one it is, and the HAProxy that runs says the same through its
    admin socket. So a reload is never lost, not even when an earlier run died between writing the file and reloading.
  - Then it waits until visitors can be served.
options:
  unit: {description: The unit of HAProxy., type: str, required: true}
  socket: {description: Its admin socket., type: path, required: true}
  description: {description: What the configuration on the disk says of itself., type: str, required: true}
  backend: {description: The backend of which a server has to be up., type: str, required: true}
  wait_seconds: {description: How long to wait for either., type: int, default: 60}
attributes:
  check_mode: {support: full}
"""

EXAMPLES = r"""
- name: Let HAProxy take its configuration
  balancer_config:
    unit: haproxy.service
    socket: /run/haproxy/admin.sock
    description: sitekeeper 9f86d081
    backend: currents
"""

RETURN = r"""
restarts: {description: What was reloaded and why., type: list, returned: always}
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.haproxy_admin import AbsentError, Admin

POLL_SECONDS = 0.25


def running(admin: Admin) -> str:
    """Return the description of the configuration that runs; empty when none does."""
    try:
        return admin.description()
    except AbsentError:
        return ""


def down(admin: Admin, backend: str) -> str:
    """Say why no server of a backend can be reached; empty when one can."""
    try:
        servers = admin.servers(backend)
    except AbsentError as error:
        return str(error)
    # HAProxy takes a server for up until its first check has ended.
    if any(server.serves and server.check for server in servers.values()):
        return ""
    return "; ".join(f"{name}: {server.check or 'no check yet'}" for name, server in servers.items()) or "no server"


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "unit": {"type": "str", "required": True},
            "socket": {"type": "path", "required": True},
            "description": {"type": "str", "required": True},
            "backend": {"type": "str", "required": True},
            "wait_seconds": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    options = module.params
    unit, wanted, admin = options["unit"], options["description"], Admin(options["socket"])
    restarts = []
    if running(admin) != wanted:
        restarts = [{"unit": unit, "action": "reload", "why": "its configuration changed"}]
    if module.check_mode:
        module.exit_json(changed=bool(restarts), restarts=restarts)
    if restarts:
        rc, out, err = module.run_command(["systemctl", "reload", unit])
        if rc != 0:
            module.fail_json(msg=f"systemctl reload {unit} failed: {err.strip() or out.strip()}")
    deadline = time.monotonic() + options["wait_seconds"]
    problem = "it did not take the configuration"
    while running(admin) != wanted or (problem := down(admin, options["backend"])):
        if time.monotonic() > deadline:
            module.fail_json(
                msg=f"{unit} serves nobody after {options['wait_seconds']} s: {problem}\n"
                f"Look at it on the host: systemctl status {unit}; journalctl -u {unit}",
                restarts=restarts,
            )
        time.sleep(POLL_SECONDS)
    module.exit_json(changed=bool(restarts), restarts=restarts)


if __name__ == "__main__":
    main()

#!/usr/bin/python
"""Ansible module: one deploy at a time; a lock of the kernel's, so that it ends with whoever holds it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: deploy_lock
short_description: Holds the deploy lock of an app for as long as the run lives
description:
  - Takes C(flock(2)), exclusive, on C(/run/sitekeeper/NAME.deploy.lock), and leaves a small process behind that holds
    it while the I(anchor) lives. The anchor is a process on the host at the end of a channel that the action plugin of
    the same name keeps open from the controller. So the lock ends with the run, whether that ends well, is killed, or
    loses its network.
  - Any program on the host may take the same lock. It opens the file (made with mode 0600), tries to lock it for a
    second, and then writes one JSON object with the keys C(who), C(from), C(since) (ISO 8601 in UTC) and C(what), all
    text; C(token) and C(patience_seconds) are this module's. It never removes or renames the file, and truncates it
    only with the lock. What is in the file means nothing while nobody holds the lock. Nobody but root may open it,
    since who can open it can lock it.
  - In check mode it takes nothing, and warns when a deploy is at work.
options:
  name: {description: The app's name., type: str, required: true}
  anchor: {description: C(pid) and C(start) (field 22 of C(stat)) of the process that the lock lasts with., type: dict}
  token: {description: Names this run; a run that has the lock may ask for it again., type: str, default: ""}
  who: {description: Who deploys., type: str, default: ""}
  from: {description: From which address., type: str, default: ""}
  what: {description: The playbook., type: str, default: ""}
  patience_seconds: {description: After how long a silent controller loses the lock., type: int, default: 0}
  directory: {description: Where the lock is., type: path, default: /run/sitekeeper}
  look:
    description: Paths to look at under the lock, as the module C(preflight) does without it.
    type: list
    elements: str
    default: []
  look_units: {description: Units to look at besides., type: list, elements: str, default: []}
  look_app:
    description:
      - What else a deploy with nothing to do wants to know of the app C(name), whose directory is C(root) - its
        C(units), whole, whether the inputs in their C(records) have changed, the answer at C(health_url), the version
        of C(python), its releases.
    type: dict
    default: {}
  look_key: {description: Seals contents; the action plugin makes one for each run., type: str, default: ""}
attributes:
  check_mode: {support: full}
"""

EXAMPLES = r"""
- name: Take the deploy lock
  deploy_lock:
    name: currents
"""

RETURN = r"""
seen: {description: Paths and packages and units that are there and the app., type: dict, returned: with look}
anchor_gone: {description: The anchor does not live any more; nothing was taken., type: bool, returned: when so}
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.host_lock import DIRECTORY, Taken, look, take
from ansible.module_utils.host_look import OPTIONS, everything


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "anchor": {"type": "dict"},
            "token": {"type": "str", "default": "", "no_log": False},
            "who": {"type": "str", "default": ""},
            "from": {"type": "str", "default": ""},
            "what": {"type": "str", "default": ""},
            "patience_seconds": {"type": "int", "default": 0},
            "directory": {"type": "path", "default": DIRECTORY},
            **OPTIONS,
        },
        supports_check_mode=True,
    )
    options = module.params
    path = Path(options["directory"], f"{options['name']}.deploy.lock")
    if module.check_mode:
        for warning in look(options["name"], path):
            module.warn(warning)
        module.exit_json(changed=False)
    if options["anchor"] is None:
        module.fail_json(msg="deploy_lock: use it as a task; its action plugin gives the anchor")
    try:
        taken = {} if take(options, path) else {"anchor_gone": True}
    except Taken as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **taken, **everything(options))


if __name__ == "__main__":
    main()

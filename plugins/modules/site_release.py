#!/usr/bin/python
"""Ansible module: ask the program on the host that looks after a site's releases."""

from __future__ import annotations

DOCUMENTATION = r"""
module: site_release
short_description: Proves and switches releases, goes back, and lists them
description:
  - Runs the program that the role C(release) installs, and turns what it says into a result. The program decides; it
    can be run without a controller too.
options:
  name: {description: The site; its deploy lock (M(deploy_lock)) is held by this run., type: str, required: true}
  action: {description: What to do., type: str, choices: [switch, rollback, list], required: true}
  to:
    description:
      - The release to go back to; empty for the good one that was live last.
      - For C(switch) in check mode, the release that would have been brought; empty for the one that is there.
    type: str
    default: ""
  database: {description: Whether a rollback restores the database., type: bool, default: false}
  hold:
    description: Whether C(switch) leaves the switch itself for a later task, where a release serves visitors already.
    type: bool
    default: false
  turn:
    description: Whether C(switch) goes on with a release that C(hold) has left, with the settings that came with it.
    type: bool
    default: false
  retry_bad: {description: Whether a release that was marked bad is tried once more., type: bool, default: false}
  who: {description: Who asks for it; the action plugin of the same name knows., type: str, default: ""}
  look_app:
    description: What to look at of the app once C(switch) restarted it, see M(deploy_lock); the action plugin knows.
    type: dict
    default: {}
attributes:
  check_mode: {support: full}
"""

EXAMPLES = r"""
- name: Prove the release, and switch to it
  site_release: {name: currents, action: switch}
"""

RETURN = r"""
text: {description: What was done in words., type: str, returned: success}
restarts: {description: What was restarted and why., type: list, returned: success}
pending: {description: Whether a switch was left for later., type: bool, returned: when so}
serves: {description: The C(release) of the host now and a C(note) about it., type: dict, returned: except for list}
summary: {description: Lines for the end of the run., type: list, returned: when something changed}
seen: {description: The units of the app and how it runs., type: dict, returned: with look_app and after a restart}
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.host_look import app_again
from ansible.module_utils.switch_report import serves, summary_of

PROGRAM = "/usr/local/lib/sitekeeper/release"


def command(options: Mapping[str, Any], check: bool) -> list[str]:
    """Return the command line for a task's options."""
    argv = [PROGRAM, options["name"], options["action"], "--json"]
    if options["action"] == "list":
        return argv
    argv += ["--who", options["who"]] if options["who"] else []
    argv += ["--locked", *(["--check"] if check else [])]
    if options["action"] == "switch":
        argv += ["--asked", options["to"]] if check and options["to"] else []
        argv += ["--hold"] if options["hold"] else []
        argv += ["--turn"] if options["turn"] else []
        return [*argv, "--retry-bad"] if options["retry_bad"] else argv
    argv += ["--database"] if options["database"] else []
    return [*argv, options["to"]] if options["to"] else argv


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "action": {"type": "str", "choices": ["switch", "rollback", "list"], "required": True},
            "to": {"type": "str", "default": ""},
            "database": {"type": "bool", "default": False},
            "hold": {"type": "bool", "default": False},
            "turn": {"type": "bool", "default": False},
            "retry_bad": {"type": "bool", "default": False},
            "who": {"type": "str", "default": ""},
            "look_app": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    action = module.params["action"]
    if not Path(PROGRAM).exists():
        if module.check_mode and action == "switch":
            module.exit_json(changed=True, text="the first release would be proven", restarts=[])
        module.fail_json(msg=f"there is no {PROGRAM} on this host: run playbooks/deploy.yml first")
    _, out, err = module.run_command(command(module.params, module.check_mode))
    try:
        said = json.loads(out)
    except ValueError:
        module.fail_json(msg=f"{PROGRAM} said nothing that can be read: {(err or out).strip()[-2000:]}")
    if said.get("failed"):
        module.fail_json(msg=said["msg"], **serves(said))
    rows = summary_of(action, said)
    look = app_again(module.params["look_app"]) if said.get("restarts") and not module.check_mode else {}
    module.exit_json(**said, **serves(said), **({"summary": rows} if rows else {}), **look)


if __name__ == "__main__":
    main()

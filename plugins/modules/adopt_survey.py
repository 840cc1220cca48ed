#!/usr/bin/python
"""Ansible module: find an app that somebody runs by hand, and say what adopting it would do."""

from __future__ import annotations

DOCUMENTATION = r"""
module: adopt_survey
short_description: Finds who listens on the app's port, and all that belongs to it
description:
  - Reads, and changes nothing. Looks at the processes, their directory, user, environment and virtual environment, at
    SQLite databases, unit files, the lines of cron, and ngrok agents that were started by hand.
  - No value of the environment is returned or shown, only names.
options:
  name: {description: C(app_name)., type: str, required: true}
  port: {description: C(app_port)., type: int, required: true}
  root: {description: C(app_root)., type: path, required: true}
  data_dir: {description: C(app_data_dir)., type: path, required: true}
  source_type: {description: C(app_source_type)., type: str, required: true}
  source: {description: C(app_source)., type: str, default: ""}
  shared: {description: C(app_shared_paths)., type: list, elements: str, default: []}
  exclude: {description: C(app_exclude)., type: list, elements: str, default: []}
  environment: {description: The names in app_environment and app_secrets., type: list, elements: str, default: []}
  placed: {description: C(adopt_databases)., type: dict, default: {}}
  front: {description: Whether a front holds the port., type: bool, default: false}
  tunnel: {description: Whether the role ngrok runs a tunnel., type: bool, default: false}
attributes:
  check_mode: {support: full}
"""

EXAMPLES = r"""
- name: Look at what runs there
  adopt_survey:
    name: currents
    port: 5555
    root: /srv/currents
    data_dir: /var/lib/currents
    source_type: host_path
    source: /home/ubuntu/currents
"""

RETURN = r"""
state: {description: C(nothing), C(adopted), C(foreign) or C(unfinished)., type: str, returned: always}
problems: {description: What stands in the way., type: list, returned: always}
plan: {description: What was found and what becomes of it., type: str, returned: always}
"""

from ansible.module_utils.adopt_host import Host
from ansible.module_utils.adopt_plan import problems_of, survey, text_of
from ansible.module_utils.adopt_wanted import OPTIONS, Wanted
from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    wanted = Wanted(**module.params)
    found = survey(Host(run=lambda words: module.run_command(list(words))), wanted)
    module.exit_json(changed=False, state=found.state, problems=problems_of(found, wanted), plan=text_of(found, wanted))


if __name__ == "__main__":
    main()

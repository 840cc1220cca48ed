#!/usr/bin/python
"""Ansible module: take an app over from the process that somebody started, or leave it as it was."""

from __future__ import annotations

DOCUMENTATION = r"""
module: adopt_cutover
short_description: Changes an app over from a process to its service
description:
  - All steps of the change-over are made here, on the host, so that a lost connection ends none of them half-way.
    If the host or this module dies meanwhile, the next run puts the old process back first.
  - The originals lie in C(/var/lib/sitekeeper/NAME/adopt), for root alone.
options:
  stage:
    description:
      - C(put_back) puts the old process back where a change-over was broken off, before anything that takes long.
      - C(save) keeps the originals and copies the databases while the app goes on.
      - C(switch) stops the old app, copies the databases once more and starts the service; or puts the old app back.
      - C(release_tunnel) ends the ngrok agents that were started by hand, C(restore_tunnel) starts them again.
    type: str
    required: true
    choices: [put_back, save, switch, release_tunnel, restore_tunnel]
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
  user: {description: C(app_user)., type: str, required: true}
  app_module: {description: C(app_module)., type: str, required: true}
  config_dir: {description: C(app_config_dir)., type: path, required: true}
  url: {description: What the new site has to answer., type: str, required: true}
  health_seconds: {description: How long it may take to do so., type: int, default: 60}
  outage_seconds: {description: How long saving the databases may take at most., type: int, default: 10}
attributes:
  check_mode: {support: none}
"""

EXAMPLES = r"""
- name: Change over
  adopt_cutover:
    stage: switch
    name: currents
    port: 5555
    root: /srv/currents
    data_dir: /var/lib/currents
    source_type: host_path
    source: /home/ubuntu/currents
    user: currents
    app_module: app:app
    config_dir: /etc/currents
    url: http://127.0.0.1:5555/health
"""

RETURN = r"""
put_back: {description: What was done about a change-over that was broken off., type: str, returned: put_back and save}
outage_seconds: {description: From the old app's last answer to the new one's first., type: float, returned: switched}
rows: {description: The rows of each table of each database., type: dict, returned: switched}
"""

import itertools
import signal
from collections.abc import Sequence
from typing import Any

from ansible.module_utils.adopt_database import DatabaseError
from ansible.module_utils.adopt_switch import Adoption, Site
from ansible.module_utils.adopt_wanted import OPTIONS, AdoptError, Wanted
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.load_generator import Ask, Load, Row

#: Requests a second that measure the outage.
RATE = 5.0
REQUEST_SECONDS = 60.0
#: So many good answers one after the other, and the new site is there.
GOOD_ANSWERS = 3
#: By these a module is ended when its connection or its controller goes.
ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
#: The load's, besides what the service has to answer.
SPARE_SECONDS = 300.0


class Watch:
    """Asks the site all the time, and measures how long it was away."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.since: float | None = None

    def answered(self) -> bool:
        """Tell whether the last answers were good, all to requests since this was asked for the first time."""
        self.since = self.load.now() if self.since is None else self.since
        last = [row for row in self.load.so_far().rows if row.started >= self.since][-GOOD_ANSWERS:]
        return len(last) == GOOD_ANSWERS and all(row.outcome == "ok" for row in last)


def outage(rows: Sequence[Row]) -> float | None:
    """Return the longest time between two good answers, in seconds; None where there are no two."""
    ends = sorted(row.ended for row in rows if row.outcome == "ok")
    return round(max((after - before for before, after in itertools.pairwise(ends)), default=0.0), 2) if ends else None


def switched(adoption: Adoption, url: str, health_seconds: float) -> dict[str, Any]:
    """Change over under a light load; return the result of the task. Raises AdoptError and DatabaseError."""
    for number in ENDING:
        # A function and not SIG_IGN, which the old process would inherit when it is put back.
        signal.signal(number, lambda *_: None)
    load = Load(Ask(url, timeout=REQUEST_SECONDS), rate=RATE, seconds=health_seconds + SPARE_SECONDS)
    with load:
        done = adoption.switch(Watch(load).answered)
    if not done:
        return {"changed": False}
    seconds = outage(load.stop().rows)
    rows = sum(sum(tables.values()) for tables in done["rows"].values())
    summary = [
        ("outage", "not measured: the old app gave no good answer" if seconds is None else f"{seconds:.1f} s"),
        ("rows", f"{rows} in {len(done['rows'])} database(s), each table counted and checked"),
        ("cron", f"{len(done['retired'])} line(s) retired"),
        ("originals", str(adoption.kept)),
    ]
    why = "adopted: it ran by hand"
    return {
        "changed": True,
        "outage_seconds": seconds,
        **done,
        "summary": summary,
        "restarts": [{"unit": adoption.service, "action": "start", "why": why}],
    }


def main() -> None:
    """Run the module."""
    own: dict[str, dict[str, Any]] = {
        "stage": {
            "type": "str",
            "required": True,
            "choices": ["put_back", "save", "switch", "release_tunnel", "restore_tunnel"],
        },
        "user": {"type": "str", "required": True},
        "app_module": {"type": "str", "required": True},
        "config_dir": {"type": "path", "required": True},
        "url": {"type": "str", "required": True},
        "health_seconds": {"type": "int", "default": 60},
        "outage_seconds": {"type": "int", "default": 10},
    }
    module = AnsibleModule(argument_spec={**OPTIONS, **own})
    given = module.params
    site = Site(
        given["user"], given["app_module"], given["config_dir"], given["health_seconds"], given["outage_seconds"]
    )
    wanted = Wanted(**{name: given[name] for name in OPTIONS})
    # What cannot be run raises OSError: run_command would end the module, half-way through a change-over.
    adoption = Adoption(wanted, site, lambda words: module.run_command(list(words), handle_exceptions=False))
    result: dict[str, Any]
    try:
        if given["stage"] == "put_back":
            done = adoption.heal()
            result = {"changed": bool(done), "put_back": done}
        elif given["stage"] == "save":
            result = {"changed": adoption.save().state == "foreign", "put_back": adoption.healed}
        elif given["stage"] == "switch":
            result = switched(adoption, given["url"], given["health_seconds"])
        else:
            agents = adoption.release_tunnel() if given["stage"] == "release_tunnel" else adoption.restore_tunnel()
            result = {"changed": bool(agents), "agents": agents}
    except (AdoptError, DatabaseError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()

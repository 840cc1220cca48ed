#!/usr/bin/python
"""Ansible module: write several small files in one round trip."""

from __future__ import annotations

DOCUMENTATION = r"""
module: config_files
short_description: Writes small files and their directories, all in one call
description:
  - C(ansible.builtin.template) makes three to five calls on the host for each file, one after the other. This module
    makes one for all of them; give it the contents with C(lookup('ansible.builtin.template', ...)).
  - Each file is written beside its target and renamed, so a reader sees the old one or the new one.
options:
  directories:
    description: Directories to make first.
    type: list
    elements: dict
    default: []
    suboptions: &attributes
      path: {description: Where., type: path, required: true}
      owner: {description: Its owner., type: str, default: root}
      group: {description: Its group., type: str, default: root}
      mode: {description: Its mode., type: raw, required: true}
  files:
    description: Files to write.
    type: list
    elements: dict
    required: true
    suboptions:
      <<: *attributes
      content: {description: What is in it., type: str, required: true}
      validate:
        description: A command that must succeed on the new file, with C(%s) for its path, before it takes its place.
        type: str
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
"""

EXAMPLES = r"""
- name: Install the units
  config_files:
    files:
      - path: /etc/systemd/system/currents.service
        content: "{{ lookup('ansible.builtin.template', 'app.service.j2') }}"
        mode: "0644"
"""

RETURN = r"""
written: {description: Paths whose content changed., type: list, returned: always}
"""

import grp
import os
import pwd
import shlex
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

ATTRIBUTES: dict[str, dict[str, Any]] = {
    "path": {"type": "path", "required": True},
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "root"},
    "mode": {"type": "raw", "required": True},
}


class Files:
    """The files of one task."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.changed = False
        self.written: list[str] = []
        self.diffs: list[dict[str, str]] = []

    def attributes(self, entry: dict[str, Any]) -> None:
        """Give a path its owner, group and mode.

        In check mode a path, an owner or a group may be missing that an earlier task would have made.
        """
        if self.module.check_mode and not (Path(entry["path"]).exists() and known(entry["owner"], entry["group"])):
            self.changed = True
            return
        arguments = {
            **{name: entry[name] for name in ("path", "owner", "group", "mode")},
            "attributes": None,
            "secontext": self.module.selinux_default_context(entry["path"]) if self.module.selinux_enabled() else [],
        }
        self.changed = self.module.set_fs_attributes_if_different(arguments, self.changed)

    def directory(self, entry: dict[str, Any]) -> None:
        """Make one directory."""
        if not Path(entry["path"]).is_dir():
            self.changed = True
            if not self.module.check_mode:
                Path(entry["path"]).mkdir(mode=0o700, parents=True)
        self.attributes(entry)

    def file(self, entry: dict[str, Any]) -> None:
        """Write one file."""
        path, content = Path(entry["path"]), entry["content"]
        before = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        if before != content or not path.exists():
            self.changed = True
            self.written.append(str(path))
            self.diffs.append(
                {"before": before, "after": content, "before_header": str(path), "after_header": str(path)}
            )
            if not self.module.check_mode:
                self.replace(path, content, entry["validate"])
        self.attributes(entry)

    def replace(self, path: Path, content: str, validate: str | None) -> None:
        """Write the content beside its target, check it, rename it."""
        descriptor, fresh = tempfile.mkstemp(dir=self.module.tmpdir)
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            out.write(content)
        if validate:
            rc, out_text, err = self.module.run_command(shlex.split(validate.replace("%s", shlex.quote(fresh))))
            if rc != 0:
                self.module.fail_json(
                    msg=f"{path} was left as it was: {validate} refuses the new one: {err or out_text}"
                )
        # A new file begins readable by root alone, whatever its final mode.
        self.module.atomic_move(fresh, str(path), keep_dest_attrs=False)


def known(owner: str, group: str) -> bool:
    """Tell whether the host has this user and this group."""
    try:
        pwd.getpwnam(owner)
        grp.getgrnam(group)
    except KeyError:
        return False
    return True


def main() -> None:
    """Run the module."""
    content = {"content": {"type": "str", "required": True}, "validate": {"type": "str"}}
    module = AnsibleModule(
        argument_spec={
            "directories": {"type": "list", "elements": "dict", "default": [], "options": ATTRIBUTES},
            "files": {"type": "list", "elements": "dict", "required": True, "options": {**ATTRIBUTES, **content}},
        },
        supports_check_mode=True,
    )
    files = Files(module)
    for entry in module.params["directories"]:
        files.directory(entry)
    for entry in module.params["files"]:
        files.file(entry)
    module.exit_json(changed=files.changed, written=files.written, diff=files.diffs)


if __name__ == "__main__":
    main()

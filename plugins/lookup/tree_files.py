"""Ansible lookup: the files of a directory of the controller, as C(config_files) wants them."""

from __future__ import annotations

DOCUMENTATION = r"""
name: tree_files
short_description: Reads the Python files of a directory for config_files
description:
  - Returns one dictionary for each C(*.py) in the directory, so that a package goes to a host in the same round
    trip as the settings beside it.
options:
  _terms: {description: The directory., required: true}
  dest: {description: The directory on the host., type: str, required: true}
  group: {description: Group of the files., type: str, default: root}
  mode: {description: Mode of the files., type: str, default: "0644"}
"""

EXAMPLES = r"""
- config_files:
    files: "{{ query('tree_files', role_path ~ '/files/package', dest='/etc/currents/package') }}"
"""

RETURN = r"""
_raw: {description: "path, content, group and mode of each file", type: list, elements: dict}
"""

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase


def files_of(directory: Path, dest: str, group: str, mode: str) -> list[dict[str, str]]:
    """Return what C(config_files) wants of each Python file of a directory, in the order of their names.

    Raises:
        FileNotFoundError: there is no Python file.
    """
    found = sorted(directory.glob("*.py"))
    if not found:
        raise FileNotFoundError(f"there is no Python file in {directory}")
    return [
        {"path": f"{dest}/{path.name}", "content": path.read_text(encoding="utf-8"), "group": group, "mode": mode}
        for path in found
    ]


class LookupModule(LookupBase):
    """The lookup."""

    def run(self, terms: list[str], variables: Any = None, **kwargs: Any) -> list[Any]:
        """Return the files of the only term."""
        self.set_options(var_options=variables, direct=kwargs)
        try:
            return files_of(Path(terms[0]), self.get_option("dest"), self.get_option("group"), self.get_option("mode"))
        except OSError as error:
            raise AnsibleError(f"tree_files: {error}") from error

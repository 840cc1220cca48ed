"""Lookup plugin: build a Python package into one executable file, the same bytes for the same sources."""

from __future__ import annotations

DOCUMENTATION = r"""
name: zipapp
short_description: builds a Python package into one executable file
description:
  - Builds the package in a directory of the controller into one file that Python runs (a "zipapp"), and
    returns the file's path.
  - The same sources give the same bytes on every machine, so that M(ansible.builtin.copy) reports no change
    until a source changes.
  - The file is kept in C(~/.cache/sitekeeper) under a name that holds the hash of its content. Nothing else is
    written, so the lookup does the same in check mode.
options:
  _terms:
    description: Directories of packages. Each must hold C(__main__.py) with a function C(main(argv) -> int).
    required: true
"""

EXAMPLES = r"""
- name: Install the program
  ansible.builtin.copy:
    src: "{{ lookup('zipapp', role_path ~ '/../../sitectl') }}"
    dest: /usr/local/bin/sitectl
    mode: "0755"
"""

RETURN = r"""
_raw:
  description: Paths of the built files.
  type: list
  elements: path
"""

import hashlib
import io
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

SHEBANG = b"#!/usr/bin/python3\n"
MAIN = """import sys

from {package}.__main__ import main

sys.exit(main(sys.argv[1:]))
"""


def build(package: Path) -> bytes:
    """Return the executable file for the package in the directory `package`.

    The bytes depend on the names and contents of its `*.py` files only: files are in order, carry the
    oldest time a ZIP file knows, one mode, and are stored as they are (compressors differ between
    versions). Raises FileNotFoundError when the directory holds no `__main__.py`.
    """
    sources = {path.relative_to(package.parent).as_posix(): path for path in package.rglob("*.py")}
    if f"{package.name}/__main__.py" not in sources:
        raise FileNotFoundError(f"{package} holds no __main__.py")
    contents = {name: path.read_bytes() for name, path in sources.items()}
    contents["__main__.py"] = MAIN.format(package=package.name).encode()
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(contents):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # Unix, whatever the controller is
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, contents[name])
    return SHEBANG + target.getvalue()


def store(program: bytes, name: str, cache: Path) -> Path:
    """Put `program` into the directory `cache` unless it is there; return its path.

    Two runs may do this at once: the file appears in one step.
    """
    path = cache / f"{name}-{hashlib.sha256(program).hexdigest()[:16]}.pyz"
    if path.is_file() and path.read_bytes() == program:
        return path
    cache.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=cache, prefix=f".{name}-")
    with os.fdopen(handle, "wb") as file:
        file.write(program)
    Path(beside).chmod(0o644)
    Path(beside).replace(path)
    return path


class LookupModule(LookupBase):
    """The plugin as Ansible sees it."""

    def run(self, terms: list[Any], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        """Build each package in `terms`; return the paths of the built files."""
        cache = Path.home() / ".cache" / "sitekeeper"
        built = []
        for term in terms:
            package = Path(str(term)).resolve()
            try:
                built.append(str(store(build(package), package.name, cache)))
            except OSError as error:
                raise AnsibleError(f"zipapp: cannot build {term}: {error}") from error
        return built

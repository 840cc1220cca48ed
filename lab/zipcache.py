"""Runs in the guest: keeps the code of modules that Python imports from zip files, compiled.

Ansible sends each module with its libraries in a zip file, and Python compiles them from source at each call. A real
processor does that in a fraction of a second; an emulated one needs four of the six that a call takes (docs/lab.md).

Run with a directory it compiles what lies there: while an image is built, by a processor that is not emulated.
"""
# Not pathlib: every start of Python would have to import it.
# ruff: noqa: PTH104, PTH118, PTH123

from __future__ import annotations

import _imp
import marshal
import os
import sys
import zipimport
from types import CodeType

CACHE = "/var/cache/lab-python"
_compile = zipimport._compile_source  # type: ignore[attr-defined] # nothing public lies between the zip and the compiler


def compiled(pathname: str, source: bytes) -> CodeType:
    """Return the code of a module: kept from the last time that the same source was compiled, or compiled now."""
    path = f"{CACHE}/{sys.implementation.cache_tag}-{_imp.source_hash(0, source).hex()}"
    try:
        with open(path, "rb") as file:
            kept = marshal.load(file)
        if isinstance(kept, CodeType):
            return kept
    except (OSError, EOFError, ValueError, TypeError):
        # Not there yet, or not whole: the power was cut.
        pass
    code: CodeType = _compile(pathname, source)
    draft = f"{path}.{os.getpid()}"
    try:
        with open(draft, "wb") as file:
            marshal.dump(code, file)
        os.rename(draft, path)
    except OSError:
        # Only root may write: what is here runs as root.
        pass
    return code


zipimport._compile_source = compiled  # type: ignore[attr-defined]

if __name__ == "__main__":
    for directory, _, names in os.walk(sys.argv[1]):
        for name in names:
            with open(os.path.join(directory, name), "rb") as source_file:
                compiled(name, source_file.read())

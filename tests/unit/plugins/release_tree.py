"""Releases on a made-up host, for the tests of app_release's half on the host."""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from plugins.modules.app_release import Releases

ME = pwd.getpwuid(os.geteuid())


def releases_with(tmp_path: Path, **options: Any) -> Releases:
    """Make the directory of releases; return what the module does with it, told these options."""
    defaults = {"root": str(tmp_path / "srv"), "data_dir": str(tmp_path / "data"), "index_url": "", "shared": []}
    defaults["switch"] = True
    (tmp_path / "srv" / "releases").mkdir(parents=True, exist_ok=True)
    return Releases(SimpleNamespace(params={**defaults, **options}))


def finished(releases: Releases, name: str, age: int = 0) -> Path:
    """Put a finished release there, so many seconds older than others."""
    release = releases.directory / name
    (release / "venv" / "bin").mkdir(parents=True)
    (release / "venv" / "bin" / "python").symlink_to(sys.executable)
    (release / "release.json").write_text("{}")
    os.utime(release, (1_700_000_000 - age, 1_700_000_000 - age))
    return release

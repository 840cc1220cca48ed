"""Lookup: the uv program for a host's processor, as a file on the controller.

uv is on the package index as a wheel for every processor; its version and hashes are those of ``requirements.lock``,
so hosts and controller use the same one.
"""

from __future__ import annotations

DOCUMENTATION = r"""
name: uv_program
short_description: Path on the controller of the uv program for a machine
options:
  _terms: {description: The version., required: true}
  machine: {description: What C(uname -m) prints on the host., type: str, required: true}
"""

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

LOCK = Path(__file__).resolve().parents[2] / "requirements.lock"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "sitekeeper" / "uv"
#: The oldest C library of a supported host is Ubuntu 22.04's 2.35.
PLATFORMS = ("manylinux_2_17", "manylinux_2_28", "manylinux_2_31")
DOWNLOAD_TIMEOUT_SECONDS = 600


def locked(lock: str, version: str) -> list[str]:
    """Return the hashes that the lock file gives for this version of uv.

    Raises:
        ValueError: the lock file pins another version or none.
    """
    match = re.search(rf"^uv=={re.escape(version)} \\\n((?:    --hash=\S+(?: \\)?\n)+)", lock, re.MULTILINE)
    if not match:
        raise ValueError(f"requirements.lock does not pin uv=={version}; keep both at one version")
    return re.findall(r"--hash=(\S+)", match[1])


def fetch(version: str, machine: str, into: Path) -> None:
    """Download the wheel with pip, checked against the lock, and write the program in it to ``into``.

    Raises:
        ValueError: it cannot be had; the message holds pip's last line.
    """
    into.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into.parent) as scratch:
        wanted = Path(scratch, "uv.txt")
        hashes = " ".join(f"--hash={item}" for item in locked(LOCK.read_text(encoding="utf-8"), version))
        wanted.write_text(f"uv=={version} {hashes}\n", encoding="utf-8")
        platforms = [word for name in PLATFORMS for word in ("--platform", f"{name}_{machine}")]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        done = subprocess.run(
            [*pip, "--require-hashes", *platforms, "--dest", scratch, "-r", str(wanted)],
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_TIMEOUT_SECONDS,
            check=False,
        )
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode != 0 or not wheels:
            last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            raise ValueError(f"uv {version} for {machine} cannot be downloaded: {last}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            program = Path(scratch, "uv")
            program.write_bytes(wheel.read(f"uv-{version}.data/scripts/uv"))
        program.rename(into)


class LookupModule(LookupBase):
    """The lookup plugin."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        """Return the path of the program for each version asked for."""
        self.set_options(var_options=variables, direct=kwargs)
        found = []
        for version in terms:
            path = CACHE / version / self.get_option("machine") / "uv"
            try:
                if not path.exists():
                    fetch(version, self.get_option("machine"), path)
            except (ValueError, OSError, subprocess.TimeoutExpired) as error:
                raise AnsibleLookupError(str(error)) from error
            found.append(str(path))
        return found

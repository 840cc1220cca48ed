"""Starts Ansible's programs as an operator does, with nothing of the caller's own settings for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.polling import PATIENCE_SECONDS

REPOSITORY = Path(__file__).resolve().parents[2]


def ansible(program: str, *words: object, directory: Path = REPOSITORY, **environment: str) -> tuple[int, str]:
    """Run one of Ansible's programs; return its exit status and all that it printed.

    Args:
        program: its name.
        words: its arguments.
        directory: where it is started.
        environment: more variables of its environment.
    """
    mine = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    done = subprocess.run(
        [str(Path(sys.executable).with_name(program)), *map(str, words)],
        cwd=directory,
        env={**mine, "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr

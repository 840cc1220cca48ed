"""What all tests of this directory share: the repository on the path, and systemd's own judge of units."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import ansible.module_utils
import pytest

# The repository is no installed package: tests import its plugins, and their own helpers, by their full names.
REPOSITORY = Path(__file__).resolve().parents[1]
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))

# Modules import what they share as Ansible ships it to the host: from ansible.module_utils.
ansible.module_utils.__path__.append(str(REPOSITORY / "plugins" / "module_utils"))

# A shell without job control starts what it puts into the background deaf to interrupts, and so are its children.
# What is tested here is interrupted, and must hear it.
signal.signal(signal.SIGINT, signal.default_int_handler)

from tests.polling import PATIENCE_SECONDS  # noqa: E402 - found by the path set above
from tests.skips import install  # noqa: E402


def pytest_configure(config):
    install(config)


@pytest.fixture(scope="session")
def analyze():
    """Run systemd-analyze on a root directory with units; output and exit code are in the result."""
    program = shutil.which("systemd-analyze")
    assert program, "systemd-analyze is missing: run tools/setup.sh lab"

    def run(root: Path, *words: str) -> subprocess.CompletedProcess:
        command = [program, *words, f"--root={root}"]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)

    return run


@pytest.fixture(scope="session")
def verify(analyze):
    """Return what systemd finds wrong with units in a root directory; nothing when all is well."""

    def run(root: Path, *units: str) -> str:
        result = analyze(root, "verify", "--recursive-errors=yes", "--man=no", *units)
        said = result.stdout + result.stderr
        return said or (f"exit code {result.returncode}" if result.returncode else "")

    return run

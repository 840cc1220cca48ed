"""What `make demo-ssh` is told to run, runs on the machine: all of it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def called(tmp_path):
    """Call make with a lab that prints each of its words on a line; return these."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for path, text in ((".venv/bin/lab", "#!/bin/sh\nprintf '<%s>\\n' \"$@\"\n"), ("tools/setup.sh", "#!/bin/sh\n")):
        file = tmp_path / path
        file.parent.mkdir(parents=True)
        file.write_text(text)
        file.chmod(0o755)

    def call(*words):
        done = subprocess.run(
            ["make", "--no-print-directory", "demo-ssh", *words],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return done.stdout.splitlines()

    return call


def test_a_command_of_several_goes_to_the_machine_whole(called):
    command = "hostname; sudo sh -c 'id && true' | cat"
    assert called(f"CMD={command}") == ["<ssh>", "<demo>", f"<{command}>"]


def test_without_a_command_it_logs_in_to_the_machine_that_is_named(called):
    assert called("HOST=web1") == ["<ssh>", "<demo-web1>"]

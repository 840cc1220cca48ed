"""What a unit test may start, and what only a test of tests/process may."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.programs import REPOSITORY, is_ours


@pytest.mark.parametrize(
    "command",
    [
        ["/usr/bin/python3", "-m", "sitectl"],
        [sys.executable, "-I", "program.py"],
        ["/x/bin/ansible-playbook", "site.yml"],
        ["gunicorn"],
        ["env", "FRONT_BIND=1", "/usr/sbin/haproxy", "-c"],
        ["git", "init"],
        [f"{REPOSITORY}/tools/setup.sh"],
    ],
    ids=" ".join,
)
def test_a_program_of_ours_has_its_place_in_tests_process(command):
    assert is_ours(command)


@pytest.mark.parametrize(
    "command",
    [["systemd-analyze", "verify"], ["sleep", "60"], ["/tmp/x/bin/systemctl"], [sys.executable, "-c", "1"], []],
    ids=" ".join,
)
def test_tools_of_the_system_and_stand_ins_may_be_started(command):
    assert not is_ours(command)


def test_a_unit_test_that_starts_one_fails():
    with pytest.raises(AssertionError, match="its place is tests/process"):
        subprocess.run(["git", "--version"], check=False)

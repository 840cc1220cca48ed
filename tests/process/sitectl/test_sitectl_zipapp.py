"""The program as it is installed: one file, the same bytes each time, run in cron's bare environment."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def plugin():
    spec = importlib.util.spec_from_file_location("zipapp_lookup", REPOSITORY / "plugins/lookup/zipapp.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def program(plugin, tmp_path):
    return plugin.store(plugin.build(REPOSITORY / "sitectl"), "sitectl", tmp_path / "cache")


def test_the_same_sources_give_the_same_bytes(plugin, tmp_path):
    first = plugin.build(REPOSITORY / "sitectl")
    shutil.copytree(REPOSITORY / "sitectl", tmp_path / "sitectl")
    for path in (tmp_path / "sitectl").rglob("*.py"):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    (tmp_path / "sitectl/__pycache__").mkdir(exist_ok=True)
    (tmp_path / "sitectl/notes.txt").write_text("not part of the program")
    assert plugin.build(tmp_path / "sitectl") == first


def test_a_changed_source_gives_another_file(plugin, tmp_path):
    shutil.copytree(REPOSITORY / "sitectl", tmp_path / "sitectl")
    before = plugin.store(plugin.build(tmp_path / "sitectl"), "sitectl", tmp_path)
    (tmp_path / "sitectl/codes.py").write_text("")
    after = plugin.store(plugin.build(tmp_path / "sitectl"), "sitectl", tmp_path)
    assert before != after


def test_a_damaged_file_in_the_cache_is_replaced(plugin, program):
    good = program.read_bytes()
    program.write_bytes(b"")
    assert plugin.store(good, "sitectl", program.parent) == program
    assert program.read_bytes() == good


def test_the_file_holds_sources_only(program):
    names = zipfile.ZipFile(program).namelist()
    assert names == sorted(names)
    assert all(name.endswith(".py") for name in names)
    assert program.read_bytes().startswith(b"#!/usr/bin/python3\n")


def test_a_directory_without_a_program_is_refused(plugin, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"__main__\.py"):
        plugin.build(tmp_path)


def test_ansible_finds_the_lookup(program, tmp_path):
    command = [
        Path(sys.executable).parent / "ansible",
        "localhost",
        "--inventory=localhost,",
        "--connection=local",
        "--module-name=ansible.builtin.debug",
        f"--args=msg={{{{ lookup('zipapp', '{REPOSITORY}/roles/monitor/../../sitectl') }}}}",
    ]
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = (tmp_path / ".cache/sitekeeper").iterdir()
    assert str(built) in done.stdout
    assert built.read_bytes() == program.read_bytes()


def interpreters():
    found = [sys.executable]
    if Path("/usr/bin/python3").exists():
        found.append("/usr/bin/python3")
    return found


@pytest.mark.parametrize("python", interpreters())
def test_it_runs_in_crons_bare_environment(site, program, python):
    shutil.copy(program, site.root / "sitectl")
    done = subprocess.run(
        ["env", "-i", f"PATH={site.bin}:/usr/bin:/bin", python, site.root / "sitectl", "--root", site.root, "check"],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "verdict=healthy" in site.lines()[0]


def test_logs_becomes_journalctl_with_all_three_sources(site, program):
    subprocess.run([sys.executable, program, "--root", site.root, "logs", "-n", "7"], check=True, capture_output=True)
    assert (site.root / "calls").read_text().split() == [
        "journalctl",
        "--lines=7",
        "_SYSTEMD_UNIT=currents.service",
        "+",
        "UNIT=currents.service",
        "+",
        "SYSLOG_IDENTIFIER=sitectl-currents",
    ]


def test_it_never_imports_ansible():
    for path in (REPOSITORY / "sitectl").glob("*.py"):
        assert "ansible" not in path.read_text().lower(), path

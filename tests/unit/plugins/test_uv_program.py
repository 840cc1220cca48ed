"""The uv program for the hosts: one version in the lock file and in the role, fetched once and only with its hash."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from ansible.errors import AnsibleLookupError

from plugins.lookup import uv_program
from plugins.lookup.uv_program import LOCK, LookupModule, locked

ROOT = Path(__file__).resolve().parents[3]
VERSION = yaml.safe_load((ROOT / "roles/app/vars/main.yml").read_text())["__app_uv_version"]
TEXT = """\
uuid==1.0 \\
    --hash=sha256:aa
uv==0.1.2 \\
    --hash=sha256:bb \\
    --hash=sha256:cc
    # via -r requirements.in
wheel==1.0 \\
    --hash=sha256:dd
"""


@pytest.fixture
def pip(tmp_path, monkeypatch):
    """A pip that downloads a wheel with a program in it; `calls` are its command lines."""
    calls = []
    answer = SimpleNamespace(calls=calls, error="")

    def run(argv, **_):
        calls.append(argv)
        requirement = Path(argv[argv.index("-r") + 1]).read_text()
        answer.requirement = requirement
        if answer.error:
            return SimpleNamespace(returncode=1, stderr=answer.error)
        target = Path(argv[argv.index("--dest") + 1], "uv.whl")
        with zipfile.ZipFile(target, "w") as wheel:
            wheel.writestr(f"uv-{VERSION}.data/scripts/uv", "program")
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(uv_program, "CACHE", tmp_path / "cache")
    return answer


@pytest.fixture
def lookup(monkeypatch):
    made = object.__new__(LookupModule)
    monkeypatch.setattr(made, "set_options", lambda **_: None)
    monkeypatch.setattr(made, "get_option", lambda name: {"machine": "x86_64"}[name])
    return made


def test_the_lock_file_pins_the_version_of_the_role():
    hashes = locked(LOCK.read_text(), VERSION)
    assert len(hashes) > 1
    assert all(item.startswith("sha256:") for item in hashes)


def test_only_the_hashes_of_uv_are_taken():
    assert locked(TEXT, "0.1.2") == ["sha256:bb", "sha256:cc"]


@pytest.mark.parametrize("version", ["0.1.3", "0.1", "0.1.20", "0.1x2", ""])
def test_a_version_that_is_not_the_locked_one_is_refused(version):
    with pytest.raises(ValueError, match=r"does not pin uv==.*; keep both at one version"):
        locked(TEXT, version)


def test_the_program_is_fetched_once_with_its_hashes(pip, lookup, tmp_path):
    first, second = lookup.run([VERSION]), lookup.run([VERSION])
    assert first == second == [str(tmp_path / "cache" / VERSION / "x86_64" / "uv")]
    assert Path(first[0]).read_text() == "program"
    (argv,) = pip.calls
    assert "--require-hashes" in argv
    assert {word for word in argv if word.startswith("manylinux")} == {
        "manylinux_2_17_x86_64",
        "manylinux_2_28_x86_64",
        "manylinux_2_31_x86_64",
    }
    assert pip.requirement.startswith(f"uv=={VERSION} --hash=sha256:")
    assert [path.name for path in Path(first[0]).parent.iterdir()] == ["uv"]


def test_a_failed_download_gives_pips_last_words_and_leaves_nothing(pip, lookup, tmp_path):
    pip.error = "WARNING: retrying\nERROR: no matching distribution\n"
    with pytest.raises(AnsibleLookupError, match="for x86_64 cannot be downloaded: ERROR: no matching distribution"):
        lookup.run([VERSION])
    assert not list((tmp_path / "cache").rglob("uv"))


def test_a_version_that_is_not_locked_asks_no_index(pip, lookup):
    with pytest.raises(AnsibleLookupError, match="keep both at one version"):
        lookup.run(["0.0.1"])
    assert pip.calls == []

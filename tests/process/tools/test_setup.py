"""Which QEMU `tools/setup.sh lab` installs, held by the calls to an apt-get of the tests' own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
#: `indextargets` tells the mirror of the suites in $SUITES; what $FAILS names is refused.
APT_GET = """#!/bin/sh
echo "$*" >>"$CALLS"
case "$*" in
*indextargets*)
    for suite in $SUITES; do
        case "$*" in *"Codename: $suite") echo http://mirror.example/debian/ ;; esac
    done ;;
$FAILS) exit 100 ;;
*qemu-system-x86*) printf '#!/bin/sh\\n' >"$BIN/qemu-system-x86_64" && chmod +x "$BIN/qemu-system-x86_64" ;;
esac
"""
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SOURCE = f"deb [signed-by={KEYRING}] http://mirror.example/debian/ bookworm-backports main\n"
FROM_BACKPORTS = "--target-release bookworm-backports qemu-system-x86 qemu-utils"


class Computer:
    """A computer as the script sees it: the programs it has, its release, and what apt was asked."""

    def __init__(self, top: Path, *, name: str = "debian", release: str = "bookworm", flags: str = "sse2") -> None:
        self.top = top
        self.bin = top / "bin"
        self.calls = top / "calls"
        self.list = top / "etc/apt/sources.list.d/bookworm-backports.list"
        for directory in (self.bin, self.list.parent, top / "dev", top / "proc"):
            directory.mkdir(parents=True)
        self.calls.touch()
        # It is there in many virtual machines whose processor cannot do it.
        (top / "dev/kvm").touch()
        (top / "proc/cpuinfo").write_text(f"flags\t\t: fpu {flags}\n")
        (top / "etc/os-release").write_text(f"ID={name}\nVERSION_CODENAME={release}\n")
        for program in ("sh", "bash", "id", "dirname", "env", "grep", "head", "tee", "rm", "cat", "chmod"):
            (self.bin / program).symlink_to(f"/usr/bin/{program}")
        self.program("apt-get", APT_GET)
        self.program("sudo", '#!/bin/sh\nexec "$@"\n')
        # Everything else that is asked for is there.
        self.keys = top / KEYRING.lstrip("/")
        self.keys.parent.mkdir(parents=True)
        self.keys.touch()
        there = "qemu-img mmdebstrap mkfs.ext4 ssh rsync git logrotate haproxy systemd-analyze shellcheck wrk"
        there += " systemd-nspawn slirp4netns ip kill"
        for program in there.split():
            self.program(program, "#!/bin/sh\n")

    def program(self, name: str, text: str) -> None:
        """Put a program where the script finds it."""
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def set_up(self, suites: str = "bookworm", fails: str = "nothing") -> tuple[str, str]:
        """Run the script; return what it said and what apt was asked."""
        env = {
            "PATH": os.fspath(self.bin),
            "SETUP_TOP": os.fspath(self.top),
            "CALLS": os.fspath(self.calls),
            "BIN": os.fspath(self.bin),
            "SUITES": suites,
            "FAILS": fails,
        }
        script = [ROOT / "tools/setup.sh", "lab"]
        ran = subprocess.run(script, env=env, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        return ran.stderr, self.calls.read_text()


@pytest.fixture
def debian12(tmp_path: Path) -> Computer:
    return Computer(tmp_path)


def test_it_comes_from_the_backports_and_their_source_is_told(debian12: Computer):
    said, asked = debian12.set_up()
    assert FROM_BACKPORTS in asked
    assert debian12.list.read_text() == SOURCE
    assert f"adding Debian's backports ({debian12.list})" in said


def test_backports_that_are_a_source_already_get_no_second_one(debian12: Computer):
    _, asked = debian12.set_up(suites="bookworm bookworm-backports")
    assert FROM_BACKPORTS in asked
    assert not debian12.list.exists()


def test_the_lists_of_the_other_sources_stay(debian12: Computer):
    _, asked = debian12.set_up()
    (only,) = [line for line in asked.splitlines() if "sourcelist" in line]
    assert "--no-list-cleanup" in only


@pytest.mark.parametrize("fails", ["*--error-on=any*", "*--target-release*"])
def test_without_them_it_is_debians_own(debian12: Computer, fails: str):
    said, asked = debian12.set_up(fails=fails)
    assert "going on with Debian 12's own" in said
    assert asked.splitlines()[-1].endswith("--no-install-recommends qemu-system-x86")


def test_a_source_that_cannot_be_reached_is_taken_out_again(debian12: Computer):
    debian12.set_up(fails="*--error-on=any*")
    assert not debian12.list.exists()


def test_a_qemu_that_is_there_is_left_alone(debian12: Computer):
    debian12.program("qemu-system-x86_64", "#!/bin/sh\n")
    said, asked = debian12.set_up()
    assert asked == ""
    assert "every package is there" in said


def test_containers_are_left_out_where_their_packages_cannot_be_had(debian12: Computer):
    (debian12.bin / "slirp4netns").unlink()
    said, asked = debian12.set_up(fails="*slirp4netns*")
    assert "no containers without slirp4netns" in said
    assert "lab: ready" in said
    assert "install" in asked
    said, _ = debian12.set_up()
    assert "no containers" not in said


def test_the_keys_of_debians_archive_are_installed_where_they_are_missing_as_on_ubuntu(debian12: Computer):
    debian12.program("qemu-system-x86_64", "#!/bin/sh\n")
    debian12.keys.unlink()
    _, asked = debian12.set_up()
    assert asked.splitlines()[-1].endswith("--no-install-recommends debian-archive-keyring")


@pytest.mark.parametrize(
    "other",
    [{"release": "trixie"}, {"name": "raspbian"}, {"flags": "sse2 vmx"}, {"flags": "svm"}],
    ids=["Debian 13", "named after it", "Intel's KVM", "AMD's KVM"],
)
def test_any_other_computer_keeps_its_own(tmp_path: Path, other: dict[str, str]):
    computer = Computer(tmp_path, **other)
    _, asked = computer.set_up()
    assert "backports" not in asked
    assert not computer.list.exists()
    assert "qemu-system-x86" in asked

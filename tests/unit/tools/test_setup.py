"""Which QEMU `tools/setup.sh lab` installs, held by the calls to an apt-get of the tests' own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from lab import qemu

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
EMULATED = qemu.host_accelerator().name == "tcg"
FROM_BACKPORTS = "--target-release bookworm-backports qemu-system-x86 qemu-utils"


class Computer:
    """A computer as the script sees it: the programs it has, its release, and what apt was asked."""

    def __init__(self, directory: Path, release: str) -> None:
        self.bin = directory / "bin"
        self.etc = directory / "etc"
        self.calls = directory / "calls"
        self.list = self.etc / "apt/sources.list.d/bookworm-backports.list"
        self.bin.mkdir()
        self.list.parent.mkdir(parents=True)
        self.calls.touch()
        (self.etc / "os-release").write_text(f"VERSION_CODENAME={release}\n")
        for name in ("sh", "bash", "id", "dirname", "env", "grep", "head", "tee", "rm", "cat", "chmod"):
            (self.bin / name).symlink_to(f"/usr/bin/{name}")
        self.program("apt-get", APT_GET)
        self.program("sudo", '#!/bin/sh\nexec "$@"\n')
        # Everything else that is asked for is there.
        for name in ("qemu-img", "mmdebstrap", "mkfs.ext4", "ssh", "rsync", "git", "logrotate", "haproxy"):
            self.program(name, "#!/bin/sh\n")
        for name in ("systemd-analyze", "shellcheck", "wrk"):
            self.program(name, "#!/bin/sh\n")

    def program(self, name: str, text: str) -> None:
        """Put a program where the script finds it."""
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def set_up(self, suites: str = "bookworm", fails: str = "nothing") -> tuple[str, str]:
        """Run the script; return what it said and what apt was asked."""
        env = {
            "PATH": os.fspath(self.bin),
            "SETUP_ETC": os.fspath(self.etc),
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
    return Computer(tmp_path, "bookworm")


@pytest.mark.skipif(not EMULATED, reason="this computer needs no emulation, so it keeps its own QEMU")
class TestEmulated:
    def test_it_comes_from_the_backports_and_their_source_is_told(self, debian12: Computer):
        said, asked = debian12.set_up()
        assert FROM_BACKPORTS in asked
        assert debian12.list.read_text() == SOURCE
        assert f"adding Debian's backports ({debian12.list})" in said

    def test_backports_that_are_a_source_already_get_no_second_one(self, debian12: Computer):
        _, asked = debian12.set_up(suites="bookworm bookworm-backports")
        assert FROM_BACKPORTS in asked
        assert not debian12.list.exists()

    def test_the_lists_of_the_other_sources_stay(self, debian12: Computer):
        _, asked = debian12.set_up()
        (only,) = [line for line in asked.splitlines() if "sourcelist" in line]
        assert "--no-list-cleanup" in only

    @pytest.mark.parametrize("fails", ["*--error-on=any*", "*--target-release*"])
    def test_without_them_it_is_debians_own(self, debian12: Computer, fails: str):
        said, asked = debian12.set_up(fails=fails)
        assert "going on with Debian 12's own" in said
        assert asked.splitlines()[-1].endswith("--no-install-recommends qemu-system-x86")

    def test_a_source_that_cannot_be_reached_is_taken_out_again(self, debian12: Computer):
        debian12.set_up(fails="*--error-on=any*")
        assert not debian12.list.exists()


def test_a_qemu_that_is_there_is_left_alone(debian12: Computer):
    debian12.program("qemu-system-x86_64", "#!/bin/sh\n")
    said, asked = debian12.set_up()
    assert asked == ""
    assert "every package is there" in said


def test_another_release_keeps_its_own(tmp_path: Path):
    computer = Computer(tmp_path, "trixie")
    _, asked = computer.set_up(suites="trixie")
    assert "backports" not in asked
    assert not computer.list.exists()
    assert "qemu-system-x86" in asked

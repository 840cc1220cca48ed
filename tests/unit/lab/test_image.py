"""What goes into an image, its hash, and what is said when it cannot be made."""

from __future__ import annotations

import io
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from lab import commands, guestfiles, image, releases
from lab.errors import HostError, LabError, UsageError
from lab.paths import Home
from tests.polling import PATIENCE_SECONDS

SPEC = image.ImageSpec(
    release=releases.find_release("debian12"),
    sources=("deb http://other.example/debian bookworm main",),
    disk_bytes=8 << 30,
    packages=("curl",),
    seed_packages=("cron",),
    files=guestfiles.image_files("ssh-ed25519 AAA lab\n", {"own.crt": "CERTIFICATE"}),
    recipe="recipe",
)


@pytest.mark.parametrize(
    "change",
    [
        {"release": releases.find_release("debian13")},
        {"sources": ("deb http://mirror.example/debian bookworm main",)},
        {"disk_bytes": 4 << 30},
        {"packages": ()},
        {"seed_packages": ("cron", "logrotate")},
        {"files": {**SPEC.files, "usr/local/share/ca-certificates/own.crt": "ANOTHER"}},
        {"recipe": "another recipe"},
        {"kind": "container"},
    ],
)
def test_everything_that_goes_in_changes_the_hash(change: dict[str, object]):
    assert replace(SPEC, **change).identity != SPEC.identity


def test_a_container_has_neither_kernel_nor_disk():
    argv = image.mmdebstrap_argv(replace(SPEC, kind="container"), Path("/keys.gpg"), Path("/draft"), Path("/packages"))
    assert not [word for word in argv if "linux-image" in word or "diskimage" in word or "/boot" in word]
    assert argv[argv.index("bookworm") + 1] == "/draft/tree.tar"
    assert "etc/fstab" not in guestfiles.image_files("key", {}, kind="container")
    assert "linux-image-virtual" not in releases.find_release("ubuntu24.04").packages("container")


def test_the_order_of_files_does_not_change_the_hash():
    assert replace(SPEC, files=dict(reversed(SPEC.files.items()))).identity == SPEC.identity


def test_certificates_go_where_update_ca_certificates_looks(tmp_path: Path):
    (tmp_path / "own.crt").write_text("CERTIFICATE")
    (tmp_path / "readme.txt").write_text("no certificate")
    assert image.read_certificates(tmp_path) == {"own.crt": "CERTIFICATE"}
    assert SPEC.files["usr/local/share/ca-certificates/own.crt"] == "CERTIFICATE"


def test_what_ansible_sends_is_compiled_ahead():
    sources = image.read_module_sources()
    assert "class AnsibleModule" in sources["module_utils/basic.py"]
    assert {"modules/apt.py", "module_utils/common/text/converters.py"} <= set(sources)
    files = guestfiles.image_files("key", {}, {"basic.py": "A = 1"})
    assert files["var/cache/lab-ahead/basic.py"] == "A = 1"


def test_without_ansible_nothing_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert image.read_module_sources() == {}


def test_packed_files_belong_to_root_and_keys_are_private():
    seed = guestfiles.seed_files("one", "PRIVATE", "PUBLIC", {})
    with tarfile.open(fileobj=io.BytesIO(guestfiles.pack(seed))) as archive:
        entries = {entry.name: entry for entry in archive.getmembers()}
    assert {(entry.uid, entry.gid) for entry in entries.values()} == {(0, 0)}
    assert entries["etc/ssh/ssh_host_ed25519_key"].mode == 0o600
    assert entries["etc/ssh/ssh_host_ed25519_key.pub"].mode == 0o644
    # Unpacked last: a machine cut off while it is seeded is seeded again.
    assert list(entries)[-1] == "etc/lab-seeded"


def test_no_package_a_role_installs_is_in_the_image():
    for release in releases.RELEASES.values():
        assert not {"cron", "logrotate", "unattended-upgrades", "needrestart"} & set(release.packages("vm"))


def test_mmdebstrap_gets_the_keyring_and_every_suite():
    argv = image.mmdebstrap_argv(SPEC, Path("/keys.gpg"), Path("/draft"), Path("/packages"))
    assert "--keyring=/keys.gpg" in argv
    assert argv[-len(SPEC.sources) :] == list(SPEC.sources)
    assert argv[argv.index("bookworm") + 1] == "-"


def test_packages_that_were_asked_for_are_installed_and_seeds_are_not():
    (included,) = (
        word for word in image.mmdebstrap_argv(SPEC, Path("/k"), Path("/d"), Path("/p")) if "include" in word
    )
    assert included == "--include=" + ",".join([*SPEC.release.packages("vm"), "curl"])


def test_mirrors_are_read_from_both_forms_of_apt_sources():
    found = releases.mirrors_in(
        [
            "Types: deb\nURIs: http://mirror.example/debian/\nSuites: bookworm\n",
            "# deb http://commented.example/debian bookworm main\n"
            "deb [arch=amd64 signed-by=/k.gpg] https://mirror.example/debian-security bookworm-security main\n"
            "deb https://third.example/apt something main\n",
        ]
    )
    assert found == {
        "debian": "http://mirror.example/debian",
        "debian-security": "https://mirror.example/debian-security",
    }


def test_sources_have_updates_and_security():
    lines = releases.source_lines(releases.find_release("debian13"), {"debian": "http://mirror.example/debian"})
    assert lines == [
        "deb http://mirror.example/debian trixie main",
        "deb http://mirror.example/debian trixie-updates main",
        "deb http://mirror.example/debian-security trixie-security main",
    ]


def test_an_archive_that_apt_does_not_name_is_the_public_one(monkeypatch):
    monkeypatch.delenv("LAB_MIRROR", raising=False)
    ubuntu, debian = releases.find_release("ubuntu24.04"), releases.find_release("debian12")
    lines = releases.source_lines(ubuntu, {"debian": "http://mirror.example/debian"})
    assert all("http://archive.ubuntu.com/ubuntu noble" in line for line in lines)
    # Debian's cloud images name a list of mirrors instead of a mirror.
    mirrors = releases.mirrors_in(["Types: deb\nURIs: mirror+file:///etc/apt/mirrors/debian.list\n"])
    assert [line.split()[1] for line in releases.source_lines(debian, mirrors)] == [
        "http://deb.debian.org/debian",
        "http://deb.debian.org/debian",
        "http://deb.debian.org/debian-security",
    ]
    monkeypatch.setenv("LAB_MIRROR", "http://mirror.example/ubuntu")
    assert all("http://mirror.example/ubuntu noble" in line for line in releases.source_lines(ubuntu, {}))


def test_an_unknown_image_names_the_known_ones():
    with pytest.raises(UsageError, match=r"'debian11'.*debian12.*ubuntu26\.04"):
        releases.find_release("debian11")


def test_a_missing_keyring_names_the_package_to_install():
    release = replace(releases.find_release("ubuntu24.04"), keyrings=("/nowhere/keys.gpg",))
    with pytest.raises(HostError, match="apt-get install ubuntu-keyring"):
        releases.find_keyring(release)


def test_missing_programs_are_named_with_the_packages_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(commands, "find_program", lambda name: None if name.startswith("qemu") else f"/bin/{name}")
    with pytest.raises(
        HostError, match=r"(?s)qemu-system-x86_64, qemu-img.*apt-get install qemu-system-x86 qemu-utils"
    ):
        commands.require_programs(commands.VM_PACKAGES)


def test_too_little_room_says_what_to_remove(tmp_path: Path):
    with pytest.raises(HostError, match=r"(?s)GiB free.*lab list.*rm -r"):
        image.check_room(tmp_path, 1 << 60)


def test_a_failed_build_keeps_its_log_and_leaves_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    programs = tmp_path / "bin"
    programs.mkdir()
    fake = programs / "mmdebstrap"
    fake.write_text("#!/bin/sh\necho E: mirror not reachable >&2\nexit 100\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setattr(image, "require_programs", lambda _: None)
    monkeypatch.setattr(image, "find_keyring", lambda release: Path("/keys.gpg"))
    home = Home(tmp_path / "home")
    with pytest.raises(LabError, match=r"(?s)mirror not reachable.*failed-build\.log.*other\.example"):
        image.ensure_image(home, SPEC)
    assert [path.name for path in home.images.iterdir()] == ["failed-build.log"]


def test_a_finished_image_is_not_built_again(tmp_path: Path):
    home = Home(tmp_path)
    (home.images / SPEC.identity).mkdir(parents=True)
    assert image.ensure_image(home, SPEC).disk == home.images / SPEC.identity / "disk.raw"


def test_images_of_two_releases_are_built_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    both = threading.Barrier(2)

    def build(home: Home, spec: image.ImageSpec, keyring: Path, draft: Path) -> None:
        both.wait(PATIENCE_SECONDS)
        assert draft.is_dir(), "the other one took it for what a killed build left"

    monkeypatch.setattr(image, "require_programs", lambda _: None)
    monkeypatch.setattr(image, "find_keyring", lambda release: Path("/keys.gpg"))
    monkeypatch.setattr(image, "check_room", lambda directory, needed_bytes: None)
    monkeypatch.setattr(image, "_build", build)
    home, other = Home(tmp_path), replace(SPEC, release=releases.find_release("debian13"))
    with ThreadPoolExecutor(2) as pool:
        built = list(pool.map(lambda spec: image.ensure_image(home, spec), (SPEC, other)))
    assert [one.directory.name for one in built] == [SPEC.identity, other.identity]
    assert all(one.directory.is_dir() for one in built)


def test_the_end_of_a_log_is_shown_without_control_characters(tmp_path: Path):
    log = tmp_path / "serial.log"
    log.write_bytes(b"first\n\x1b[0mlast\r\n\n")
    assert commands.tail(log, 1) == "    [0mlast"
    assert commands.tail(tmp_path / "none") == "    (nothing written)"

"""Root disks: built once per set of inputs, found again by the hash of them."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lab import network
from lab.commands import CONTAINER_PACKAGES, VM_PACKAGES, require_programs, run
from lab.definition import Definition
from lab.errors import HostError, LabError
from lab.guestfiles import image_files, pack
from lab.paths import Home
from lab.progress import step
from lab.releases import Release, find_keyring, find_release, host_mirrors, source_lines

_HERE = Path(__file__).parent
_CERTIFICATES = Path("/usr/local/share/ca-certificates")
_ROOM_FOR_BUILD = 3 << 30
_INODES = 262144


@dataclass(frozen=True)
class ImageSpec:
    """Everything that goes into an image; the hash of it is the image's name."""

    release: Release
    sources: tuple[str, ...]
    disk_bytes: int
    #: installed besides what the lab needs
    packages: tuple[str, ...]
    #: downloaded, not installed
    seed_packages: tuple[str, ...]
    files: Mapping[str, str]
    recipe: str
    kind: str = "vm"

    @property
    def cache(self) -> str:
        """Return the name of the packages kept for the next build."""
        return f"{self.release.suite}-{self.kind}"

    @property
    def identity(self) -> str:
        """Return a short hash: two specs with the same one give the same machine."""
        content = {
            "kind": self.kind,
            "release": [self.release.suite, *self.release.packages(self.kind)],
            "packages": self.packages,
            "sources": self.sources,
            "disk_bytes": self.disk_bytes,
            "seed_packages": self.seed_packages,
            "files": sorted(self.files.items()),
            "recipe": self.recipe,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Image:
    """A finished image: disk, kernel and initial RAM disk side by side in one directory; of a container its tree."""

    directory: Path

    @property
    def disk(self) -> Path:
        """The root disk, never written to: machines have an overlay on top of it."""
        return self.directory / "disk.raw"

    @property
    def tree(self) -> Path:
        """The root directory of a container, as a tar archive: it keeps owners, and nobody writes to it by mistake."""
        return self.directory / "tree.tar"

    @property
    def kernel(self) -> Path:
        """The distribution's own kernel."""
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """The distribution's own initial RAM disk."""
        return self.directory / "initrd"


def lab_key(home: Home) -> Path:
    """Return the private key with which the lab logs in, made at first use."""
    key = home.keys / "lab_ed25519"
    if not key.is_file():
        with home.lock("keys", "the ssh key to be made"):
            if not key.is_file():
                home.keys.mkdir(parents=True, exist_ok=True, mode=0o700)
                make_key(key, "lab")
    return key


def make_key(path: Path, comment: str) -> None:
    """Make an ed25519 key pair at `path` and `path`.pub."""
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(draft)]
    result = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if result.returncode:
        raise LabError(f"ssh-keygen could not make {path}: {result.stderr.strip()}")
    draft.with_name(f"{draft.name}.pub").rename(path.with_name(f"{path.name}.pub"))
    draft.rename(path)


def read_certificates(directory: Path = _CERTIFICATES) -> dict[str, str]:
    """Return the extra certificate authorities this computer trusts: file name -> content."""
    return {path.name: path.read_text() for path in sorted(directory.glob("*.crt")) if path.is_file()}


def read_module_sources() -> dict[str, str]:
    """Return what Ansible sends to a machine as it is installed here, by path; nothing without Ansible."""
    found = importlib.util.find_spec("ansible")
    roots = [Path(place) for place in (found and found.submodule_search_locations) or []]
    return {
        str(path.relative_to(root)): path.read_text(encoding="utf-8")
        for root in roots
        for part in ("module_utils", "modules")
        for path in sorted((root / part).rglob("*.py"))
    }


def make_spec(home: Home, definition: Definition) -> ImageSpec:
    """Collect what goes into the image of a machine on this computer."""
    release, kind = find_release(definition.image), definition.kind
    public_key = lab_key(home).with_name("lab_ed25519.pub").read_text()
    return ImageSpec(
        release=release,
        sources=tuple(source_lines(release, host_mirrors())),
        # A container's tree has no size.
        disk_bytes=definition.disk_bytes if kind == "vm" else 0,
        packages=tuple(sorted(set(definition.packages))),
        seed_packages=tuple(sorted(set(definition.seed_packages))),
        files=image_files(public_key, read_certificates(), read_module_sources(), kind),
        recipe="".join((_HERE / name).read_text() for name in ("customize.sh", "diskimage.sh", "clean.sh")),
        kind=kind,
    )


def ensure_image(home: Home, spec: ImageSpec) -> Image:
    """Return the image for `spec`, building it when it is not there yet.

    Two commands that want the same image build it once; those of different releases or kinds are built side by side,
    for they share no cache. A build that is killed leaves nothing that could be taken for an image: the directory gets
    its name only when everything is in it.
    """
    final = home.images / spec.identity
    if final.is_dir():
        return Image(final)
    require_programs(VM_PACKAGES if spec.kind == "vm" else CONTAINER_PACKAGES)
    keyring = find_keyring(spec.release)
    home.images.mkdir(parents=True, exist_ok=True)
    part = spec.cache
    with home.lock(f"images-{part}", "an image to be built"):
        if final.is_dir():
            return Image(final)
        for stale in home.images.glob(f"building-{part}-*"):
            shutil.rmtree(stale)
        check_room(home.images, _ROOM_FOR_BUILD)
        draft = Path(tempfile.mkdtemp(prefix=f"building-{part}-", dir=home.images))
        try:
            with step(f"building the {spec.release.image} image of a {spec.kind} (once; kept in {home.images})"):
                _build(home, spec, keyring, draft)
            draft.chmod(0o755)
            draft.rename(final)
        except LabError as error:
            kept = home.images / "failed-build.log"
            (draft / "build.log").replace(kept)
            raise LabError(
                f"{error}\nThe image could not be built. Whole log: {kept}\n"
                f"Check that this computer reaches {spec.sources[0].split()[1]} and try again."
            ) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return Image(final)


def check_room(directory: Path, needed_bytes: int) -> None:
    """Raise HostError when the file system of `directory` has less than `needed_bytes` to spare."""
    free = shutil.disk_usage(directory).free
    if free < needed_bytes:
        raise HostError(
            f"Only {free / 2**30:.1f} GiB free in {directory}, the lab needs {needed_bytes / 2**30:.0f} GiB.\n"
            f"Remove machines (python -m lab list, down) or old images (rm -r {directory.parent}/images/*)."
        )


def mmdebstrap_argv(spec: ImageSpec, keyring: Path, draft: Path, packages: Path) -> list[str]:
    """Return the command that makes disk, kernel and initial RAM disk in `draft`, or the tree of a container."""
    vm = spec.kind == "vm"
    return [
        "mmdebstrap",
        "--variant=minbase",
        f"--format={'null' if vm else 'tar'}",
        f"--include={','.join([*spec.release.packages(spec.kind), *spec.packages])}",
        f"--keyring={keyring}",
        # Packages and lists are wanted in the image and in the cache; customize.sh sorts them out.
        "--skip=cleanup/apt,download/empty,essential/unlink",
        "--aptopt=Apt::Install-Recommends false",
        "--dpkgopt=force-unsafe-io",
        '--setup-hook=mkdir -p "$1/var/cache/apt/archives"',
        f"--setup-hook=sync-in {packages} /var/cache/apt/archives",
        # Before the kernel comes, so that its initial RAM disk is made with our settings.
        f"--essential-hook=tar-in {draft}/files.tar /",
        f"--customize-hook={_HERE}/customize.sh",
        f"--customize-hook=sync-out /var/cache/lab-stash {draft}/packages",
        *([f"--customize-hook=copy-out /boot {draft}"] if vm else []),
        f"--customize-hook={_HERE}/clean.sh",
        *([f"--customize-hook={_HERE}/diskimage.sh"] if vm else []),
        spec.release.suite,
        "-" if vm else str(draft / "tree.tar"),
        *spec.sources,
    ]


def _build(home: Home, spec: ImageSpec, keyring: Path, draft: Path) -> None:
    packages = home.packages / spec.cache
    packages.mkdir(parents=True, exist_ok=True)
    (draft / "packages").mkdir()
    (draft / "files.tar").write_bytes(pack(spec.files))
    env = {
        **os.environ,
        "LAB_SEED_PACKAGES": " ".join(spec.seed_packages),
        "LAB_INODES": str(_INODES),
        "LAB_NAME_SERVER": network.NAME_SERVER,
    }
    argv = mmdebstrap_argv(spec, keyring, draft, packages)
    if spec.kind == "vm":
        _build_disk(spec, argv, draft, env)
    else:
        run(argv, draft / "build.log", env)
    # The cache becomes exactly what this build used, so that it does not grow for ever.
    shutil.rmtree(packages)
    (draft / "packages").rename(packages)
    (draft / "files.tar").unlink()


def _build_disk(spec: ImageSpec, argv: list[str], draft: Path, env: Mapping[str, str]) -> None:
    disk = draft / "disk.raw"
    with disk.open("wb") as handle:
        handle.truncate(spec.disk_bytes)
    # Without root, the hook runs as another user who cannot enter this directory: it gets the disk as an
    # open file. Opening it again through /proc asks for the file's own mode only.
    disk.chmod(0o666)
    descriptor = os.open(disk, os.O_RDWR)
    try:
        _run_with_disk(argv, draft / "build.log", env, descriptor)
    finally:
        os.close(descriptor)
    disk.chmod(0o444)
    _newest(draft / "boot", "vmlinuz-*").rename(draft / "vmlinuz")
    _newest(draft / "boot", "initrd.img-*").rename(draft / "initrd")
    shutil.rmtree(draft / "boot")


def _run_with_disk(argv: list[str], log: Path, env: Mapping[str, str], descriptor: int) -> None:
    os.set_inheritable(descriptor, True)
    # The hooks know the disk as descriptor 9.
    run(["sh", "-c", f'exec "$@" 9<>/proc/self/fd/{descriptor}', "sh", *argv], log, env, (descriptor,))


def _newest(directory: Path, pattern: str) -> Path:
    # Ubuntu's /boot also has symbolic links without a version.
    found = [path for path in directory.glob(pattern) if stat.S_ISREG(path.lstat().st_mode)]
    if not found:
        raise LabError(f"The image has no {pattern} in /boot.")
    return max(found, key=lambda path: path.stat().st_mtime)

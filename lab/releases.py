"""Which distribution releases the lab can boot, and from which archive they come."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lab.errors import HostError, UsageError

#: Environment variable with the address of an archive, where apt's own settings name none.
MIRROR_VARIABLE = "LAB_MIRROR"
#: The archives' addresses for everybody.
PUBLIC = {"debian": "http://deb.debian.org/debian", "ubuntu": "http://archive.ubuntu.com/ubuntu"}

_COMMON_PACKAGES = (
    "systemd-sysv",
    "libpam-systemd",
    "dbus",
    "udev",
    "openssh-server",
    "python3",
    "python3-apt",
    "sudo",
    "ca-certificates",
    "iproute2",
    "netbase",
)


@dataclass(frozen=True)
class Release:
    """One distribution release as the lab builds it."""

    image: str
    distribution: str
    suite: str
    #: what only a machine with a kernel of its own has
    kernel_packages: tuple[str, ...]
    components: str
    keyrings: tuple[str, ...]

    def packages(self, kind: str) -> tuple[str, ...]:
        """What every machine of a kind has before anything is tried on it: nothing a role is meant to install."""
        return (*_COMMON_PACKAGES, *self.kernel_packages) if kind == "vm" else _COMMON_PACKAGES


def _debian(image: str, suite: str) -> Release:
    return Release(
        image,
        "debian",
        suite,
        ("linux-image-cloud-amd64",),
        "main",
        ("/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"),
    )


def _ubuntu(image: str, suite: str) -> Release:
    return Release(
        image,
        "ubuntu",
        suite,
        # Debian's kernel brings initramfs-tools; Ubuntu's only recommends it.
        ("initramfs-tools", "linux-image-virtual"),
        "main universe",
        ("/usr/share/keyrings/ubuntu-archive-keyring.gpg",),
    )


RELEASES = {
    release.image: release
    for release in (
        _debian("debian12", "bookworm"),
        _debian("debian13", "trixie"),
        _ubuntu("ubuntu22.04", "jammy"),
        _ubuntu("ubuntu24.04", "noble"),
        _ubuntu("ubuntu26.04", "resolute"),
    )
}


def find_release(image: str) -> Release:
    """Return the release called `image`; raise UsageError naming the ones there are."""
    try:
        return RELEASES[image]
    except KeyError:
        raise UsageError(f"There is no image {image!r}. Choose one of: {', '.join(RELEASES)}.") from None


def find_keyring(release: Release) -> Path:
    """Return the keyring with which the release's archive is verified; never build without one."""
    for candidate in release.keyrings:
        if Path(candidate).is_file():
            return Path(candidate)
    package = "debian-archive-keyring" if release.distribution == "debian" else "ubuntu-keyring"
    raise HostError(
        f"The keys that sign {release.distribution}'s archive are missing ({release.keyrings[0]}), "
        f"so {release.image} cannot be built safely.\n"
        f"Install them: sudo apt-get install {package}. Or use --image debian12."
    )


def mirrors_in(texts: Iterable[str]) -> dict[str, str]:
    """Find the mirrors of Debian, its security archive and Ubuntu in apt source files.

    Both forms are read (`deb [options] URI suite ...` and `URIs: URI ...`). The archive is recognised by
    the last part of the URI's path, as every mirror keeps it. The first one found wins.
    """
    found: dict[str, str] = {}
    for text in texts:
        for line in text.splitlines():
            match = re.match(r"\s*(?:deb\s+(?:\[[^\]]*\]\s+)?|URIs:\s*)(\S+)", line)
            if not match or not match[1].startswith(("http://", "https://")):
                continue
            uri = match[1].rstrip("/")
            archive = uri.rsplit("/", 1)[-1]
            if archive in {"debian", "debian-security", "ubuntu"}:
                found.setdefault(archive, uri)
    return found


def host_mirrors(apt: Path = Path("/etc/apt")) -> dict[str, str]:
    """Read the mirrors this computer itself uses, so that the lab works behind a local mirror."""
    files = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]
    return mirrors_in(
        path.read_text(errors="replace") for path in files if path.is_file() and path.suffix in {".list", ".sources"}
    )


def source_lines(release: Release, mirrors: dict[str, str]) -> list[str]:
    """Return the guest's sources.list: the release, its updates and its security fixes.

    Where this computer's apt names no mirror, as that of another distribution, or of a cloud image that has its mirrors
    in a list of their own, the distribution's public address is taken.
    """
    suite, components = release.suite, release.components
    main = os.environ.get(MIRROR_VARIABLE) or mirrors.get(release.distribution) or PUBLIC[release.distribution]
    security = mirrors.get("debian-security", f"{main}-security") if release.distribution == "debian" else main
    return [
        f"deb {main} {suite} {components}",
        f"deb {main} {suite}-updates {components}",
        f"deb {security} {suite}-security {components}",
    ]

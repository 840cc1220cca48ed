"""Files the lab puts into a guest, as tar archives with root as owner."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

#: Where the distribution's Python looks for modules.
_PYTHON = "usr/lib/python3/dist-packages"
#: What every image has. The host's certificates and the lab's public key are added by `image_files`.
_STATIC = {
    "etc/sudoers.d/lab": "admin ALL=(ALL:ALL) NOPASSWD: ALL\n",
    "etc/ssh/sshd_config.d/lab.conf": (
        "# Only the recorded key: the others would cost time at every handshake and be unknown to the client.\n"
        "HostKey /etc/ssh/ssh_host_ed25519_key\nUseDNS no\nPasswordAuthentication no\nPrintMotd no\n"
    ),
    # What differs between machines of one image is a tar archive. A container has it from before its first boot; a VM
    # has it on its second disk, unpacks it once and writes it out at once, so that a power cut cannot undo it.
    "etc/systemd/system/lab-seed.service": """\
[Unit]
Description=Give this machine its name, keys and addresses
DefaultDependencies=no
ConditionPathExists=!/etc/lab-seeded
After=systemd-remount-fs.service
Before=systemd-networkd.service ssh.service ssh.socket sysinit.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/tar -x -p -f /dev/vdb -C /
ExecStart=/bin/hostname --file /etc/hostname
ExecStart=/bin/sync --file-system /etc/hostname

[Install]
WantedBy=sysinit.target
""",
}
#: What only a machine with a disk and a kernel of its own has.
_VM_STATIC = {
    "etc/fstab": "/dev/vda / ext4 errors=remount-ro 0 1\n",
    # The distribution's initial RAM disk carries drivers for every computer, and an emulated processor takes
    # seconds to unpack it. These are all the drivers a lab machine's root disk needs.
    "etc/initramfs-tools/conf.d/lab": "MODULES=list\n",
    "etc/initramfs-tools/hooks/lab": """\
#!/bin/sh
[ "$1" = prereqs ] && exit 0
. /usr/share/initramfs-tools/hook-functions
manual_add_modules virtio_pci virtio_blk ext4
""",
}


def image_files(
    public_key: str, certificates: Mapping[str, str], sources: Mapping[str, str] | None = None, kind: str = "vm"
) -> dict[str, str]:
    """Return path -> content of what goes into an image.

    Args:
        public_key: what the lab logs in with.
        certificates: the extra authorities this computer trusts, by file name: behind a proxy with its own authority,
            pip and curl in the guest would otherwise fail.
        sources: Python that the guest will import from zip files, by name: compiled while the image is built.
        kind: of machine.
    """
    files = {**_STATIC, **(_VM_STATIC if kind == "vm" else {})}
    files[f"{_PYTHON}/lab_zipcache.py"] = Path(__file__).with_name("zipcache.py").read_text()
    # Python imports it whenever it starts, the distribution's own: a virtual environment's does not.
    files[f"{_PYTHON}/lab_zipcache.pth"] = "import lab_zipcache\n"
    files["etc/ssh/lab_authorized_keys"] = public_key
    for name, content in certificates.items():
        files[f"usr/local/share/ca-certificates/{name}"] = content
    for name, content in (sources or {}).items():
        files[f"var/cache/lab-ahead/{name}"] = content
    return files


def seed_files(name: str, host_key: str, host_key_public: str, network: Mapping[str, str]) -> dict[str, str]:
    """Return path -> content of what makes one machine different from another of the same image."""
    return {
        "etc/hostname": f"{name}\n",
        "etc/hosts": f"127.0.0.1 localhost\n127.0.1.1 {name}\n::1 localhost ip6-localhost\n",
        "etc/ssh/ssh_host_ed25519_key": host_key,
        "etc/ssh/ssh_host_ed25519_key.pub": host_key_public,
        **network,
        "etc/lab-seeded": "The lab gave this machine its name, keys and addresses.\n",
    }


def file_mode(path: str) -> int:
    """Return the mode of a guest file: private keys and sudo rules are readable by root alone."""
    if path.endswith("_key"):
        return 0o600
    if path.startswith("etc/sudoers.d/"):
        return 0o440
    return 0o755 if path.startswith("etc/initramfs-tools/hooks/") else 0o644


def pack(files: Mapping[str, str]) -> bytes:
    """Return an uncompressed tar archive of `files`, the same bytes for the same input."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, content in files.items():
            data = content.encode()
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            entry.mode = file_mode(path)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()

"""Running other programs: one place that says what is missing and what failed."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lab.errors import HostError, LabError

#: Of every machine: program -> apt package that has it
COMMON_PACKAGES = {
    "mmdebstrap": "mmdebstrap",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
}
VM_PACKAGES = {
    **COMMON_PACKAGES,
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mkfs.ext4": "e2fsprogs",
}
CONTAINER_PACKAGES = {
    **COMMON_PACKAGES,
    "systemd-nspawn": "systemd-container",
    "slirp4netns": "slirp4netns",
    "ip": "iproute2",
    "kill": "procps",
    "tar": "tar",
}

# A user's PATH often lacks the directories with mkfs.ext4.
_SYSTEM_DIRECTORIES = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def find_program(name: str) -> str | None:
    """Return the program's path, looking into the system directories as well as PATH."""
    return shutil.which(name) or shutil.which(name, path=":".join(_SYSTEM_DIRECTORIES))


def missing_programs(names: Iterable[str]) -> list[str]:
    """Return the programs that this computer lacks."""
    return [name for name in names if find_program(name) is None]


def require_programs(package_of: Mapping[str, str]) -> None:
    """Raise HostError naming every missing program and the one command that installs them all."""
    missing = missing_programs(package_of)
    if missing:
        packages = sorted({package_of[name] for name in missing})
        raise HostError(
            f"These programs are missing: {', '.join(missing)}.\n"
            f"Install them: sudo apt-get install {' '.join(packages)}   (or: tools/setup.sh lab)"
        )


def as_root(argv: Sequence[str]) -> list[str]:
    """Return the command as root runs it: through a sudo that never asks where this user is not root."""
    return list(argv) if os.geteuid() == 0 else ["sudo", "-n", "--", *argv]


def run_as_root(*argv: str) -> str:
    """Run a short command as root and return what it prints; raise LabError with what it said when it fails."""
    program = find_program(argv[0]) or argv[0]
    result = subprocess.run(
        as_root([program, *argv[1:]]), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if result.returncode:
        said = result.stderr.strip() or result.stdout.strip()
        raise LabError(f"{shlex.join(argv)} failed with status {result.returncode}: {said}")
    return result.stdout


def tail(path: Path, lines: int = 20) -> str:
    """Return the end of a log, indented, with control characters taken out."""
    if not path.is_file():
        return "    (nothing written)"
    text = path.read_bytes()[-64_000:].decode(errors="replace")
    clean = "".join(char for char in text if char.isprintable() or char in "\n\t")
    kept = [line for line in clean.splitlines() if line.strip()][-lines:]
    return "\n".join(f"    {line}" for line in kept) or "    (nothing written)"


def run(argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None, descriptors: Sequence[int] = ()) -> None:
    """Run a program with its output going to `log`; raise LabError with the end of it when it fails.

    `descriptors` stay open in the program.
    """
    with log.open("ab") as output:
        output.write(f"$ {shlex.join(argv)}\n".encode())
        output.flush()
        try:
            status = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=env,
                pass_fds=tuple(descriptors),
                check=False,
            ).returncode
        except OSError as error:
            raise HostError(f"{argv[0]} cannot be started: {error}") from error
    if status:
        raise LabError(f"{argv[0]} failed with status {status}:\n{tail(log)}")

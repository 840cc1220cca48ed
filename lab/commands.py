"""Running other programs: one place that says what is missing and what failed."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.errors import HostError, LabError

#: program -> apt package that has it
PACKAGE_OF = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mmdebstrap": "mmdebstrap",
    "mkfs.ext4": "e2fsprogs",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
}

# A user's PATH often lacks the directories with mkfs.ext4.
_SYSTEM_DIRECTORIES = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def find_program(name: str) -> str | None:
    """Return the program's path, looking into the system directories as well as PATH."""
    return shutil.which(name) or shutil.which(name, path=":".join(_SYSTEM_DIRECTORIES))


def require_programs(names: Sequence[str] = tuple(PACKAGE_OF)) -> None:
    """Raise HostError naming every missing program and the one command that installs them all."""
    missing = [name for name in names if find_program(name) is None]
    if missing:
        packages = sorted({PACKAGE_OF[name] for name in missing})
        raise HostError(
            f"These programs are missing: {', '.join(missing)}.\n"
            f"Install them: sudo apt-get install {' '.join(packages)}   (or: tools/setup.sh lab)"
        )


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

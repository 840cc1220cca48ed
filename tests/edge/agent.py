"""The real agent for tests: version 2.3.41, the newest that can be had from a package registry.

It comes inside the npm package `@expo/ngrok-bin-linux-x64`. The program is checked against its SHA-256 before use.
"""

from __future__ import annotations

import hashlib
import subprocess
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "@expo/ngrok-bin-linux-x64@2.3.41"
MEMBER = "package/ngrok"
VERSION = "2.3.41"
SHA256 = "4141a8c12de8ccff2b2b8fc3722b181b706ae73e534f34b12cfc1b42cc9395d3"
CACHE = Path.home() / ".cache" / "sitekeeper" / f"ngrok-{VERSION}-linux-amd64"
FETCH_SECONDS = 300


def fetch(path: Path = CACHE) -> Path:
    """Return the agent's program, fetched once with `npm pack` and kept at `path`.

    Raises RuntimeError when it cannot be fetched or is not the expected program.
    """
    if path.exists() and _checksum(path.read_bytes()) == SHA256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        directory = Path(name)
        try:
            packed = subprocess.run(
                ["npm", "pack", "--silent", "--pack-destination", name, PACKAGE],
                check=True,
                capture_output=True,
                text=True,
                timeout=FETCH_SECONDS,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise RuntimeError(f"npm pack {PACKAGE} failed ({error}); put the agent at {path} by hand") from error
        with tarfile.open(directory / packed.stdout.split()[-1]) as archive:
            member = archive.extractfile(MEMBER)
            program = member.read() if member else b""
        if _checksum(program) != SHA256:
            raise RuntimeError(f"{PACKAGE} holds another program than the one that was checked; it was not kept")
        fresh = directory / "ngrok"
        fresh.write_bytes(program)
        fresh.chmod(0o755)
        fresh.replace(path)
    return path


def _checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    print(fetch())

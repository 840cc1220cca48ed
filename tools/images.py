"""Build the images that the scenarios of `make test` boot from, while its checks and unit tests leave time for it.

A scenario would build what it lacks by itself; but downloads and disks are waited for then, by all of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tools.scenarios import FIRST, LONGEST_FIRST

ROOT = Path(__file__).resolve().parents[1]


def build(scenario: str) -> None:
    """Build the images of one scenario's machines; those that are there already take no time.

    Raises:
        subprocess.CalledProcessError: one could not be built; what Ansible and the lab said of it is on standard error.
    """
    words = ["ansible-playbook", "-i", f"molecule/{scenario}/inventory", "molecule/shared/image.yml"]
    environment = {**os.environ, "MOLECULE_SCENARIO_NAME": scenario}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        sys.stderr.write(done.stdout)
        done.check_returncode()


def main() -> int:
    """Build them all, the first scenario's first; return 0, or 1 when one could not be built."""
    for scenario in (FIRST, *LONGEST_FIRST):
        start = time.monotonic()
        print(f"images: those of {scenario}", flush=True)
        try:
            build(scenario)
        except subprocess.CalledProcessError:
            print(f"images: those of {scenario} could not be built, see above", flush=True)
            return 1
        print(f"images: those of {scenario} are there, {time.monotonic() - start:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""``make demo``: a disposable machine, the whole site on it, a URL at the end.

Everything here is what an operator does by hand with a real server: write an inventory, run ``site.yml``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
INVENTORY = ROOT / "inventory" / "demo.yml"
MACHINE = "demo"
PORT = 5555
MEMORY_MIB = 2048
#: Downloaded into the machine's image but not installed: the roles do that, only without the wait.
SEED_PACKAGES = "cron,logrotate,needrestart,systemd-timesyncd,unattended-upgrades"


def lab(*words: str) -> str:
    """Run the lab's command; its progress goes to the terminal.

    Raises:
        SystemExit: with the lab's own exit status, after it said why.
    """
    done = subprocess.run(
        [sys.executable, "-m", "lab", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(done.returncode)
    return done.stdout


def inventory(machine: dict[str, Any]) -> dict[str, Any]:
    """Return the inventory of the demo: one entry, as for a real server."""
    return {
        "all": {
            "hosts": {
                "currents": {
                    "ansible_host": machine["ssh_host"],
                    "ansible_port": machine["ssh_port"],
                    "ansible_user": machine["ssh_user"],
                    "ansible_ssh_private_key_file": machine["ssh_key"],
                    "ansible_ssh_common_args": f"-o UserKnownHostsFile={machine['known_hosts']}",
                    "app_source": "examples/currents",
                }
            }
        }
    }


def summary(url: str, seconds: float) -> list[tuple[str, str]]:
    """Return the rows of the closing table, read from the running site."""
    with urllib.request.urlopen(f"{url}/health", timeout=30) as answer:
        health = json.load(answer)
    status = json.loads(lab("ssh", MACHINE, "sudo", "sitectl", "status", "--json"))
    memory = status["memory_bytes"]
    mib = 1024**2

    def size(name: str) -> str:
        return f"{memory[name] // mib} MiB" if memory.get(name) else "none"

    return [
        ("URL", url),
        ("Health", f"{url}/health says {health['status']}, release {health['release']}"),
        ("Memory", f"{size('now')} in use, slowed down at {size('high')}, a worker killed at {size('max')}"),
        ("Logs", 'make demo-ssh CMD="sudo sitectl logs", access log in /var/log/currents/access.log'),
        ("State", 'make demo-ssh CMD="sudo sitectl status"'),
        ("Try next", 'make demo-ssh CMD="sudo pkill -KILL gunicorn", then open the URL: it only waits'),
        ("Redeploy", "edit examples/currents, then ansible-playbook -i inventory/demo.yml playbooks/deploy.yml"),
        ("Remove", "make demo-down"),
        ("Took", f"{seconds:.0f} s"),
    ]


def up() -> int:
    """Boot the machine, run the site on it, print the table; a second run converges."""
    start = time.monotonic()
    words = ("up", MACHINE, "--memory", str(MEMORY_MIB), "--seed-packages", SEED_PACKAGES)
    machine = json.loads(lab(*words, "--json", "--forward", str(PORT)))
    INVENTORY.write_text(
        "# Written by `make demo`; `make demo-down` removes it.\n" + yaml.safe_dump(inventory(machine)),
        encoding="utf-8",
    )
    site = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", INVENTORY, "site.yml"], cwd=ROOT, check=False
    )
    if site.returncode != 0:
        print("The site is not up. Mend what is said above, then run `make demo` again: it goes on from here.")
        return site.returncode
    rows = summary(f"http://127.0.0.1:{machine['forwards'][str(PORT)]}", time.monotonic() - start)
    width = max(len(label) for label, _ in rows)
    print("\n" + "\n".join(f"  {label:<{width}}  {text}" for label, text in rows))
    return 0


def down() -> int:
    """Remove the machine and its inventory."""
    lab("down", MACHINE)
    INVENTORY.unlink(missing_ok=True)
    print("The demo machine is gone.")
    return 0


if __name__ == "__main__":
    sys.exit({"up": up, "down": down}[sys.argv[1]]())

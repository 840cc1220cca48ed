"""``make demo``: a disposable machine, the whole site on it, a URL at the end; with HOSTS=3 three behind a balancer.

The fastest machine is taken in which memory limits hold; with KIND=container a container, whether they hold or not.

Everything here is what an operator does by hand with a real server: write an inventory, run ``site.yml``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from lab.kinds import KINDS

ROOT = Path(__file__).resolve().parents[1]
INVENTORY = ROOT / "inventory" / "demo.yml"
MACHINE = "demo"
PORT = 5555
MEMORY_MIB = 2048
#: Several machines are smaller, and their app with them; one core each, for they share what there is (docs/lab.md).
SMALL_MIB = 1024
MOST_HOSTS = 9
BALANCER = "balancer"
#: They share the processor of this computer, which may be an emulated one: everything takes longer.
PATIENCE = {
    "service_start_timeout_seconds": 240,
    "service_health_timeout_seconds": 240,
    "app_boot_timeout_seconds": 120,
    "balancer_up_seconds": 240,
}
BALANCER_PATIENCE = {"balancer_health_timeout_seconds": 240, "balancer_check_timeout_seconds": 20}
SMALL = {"app_workers": 2, "service_memory_high": "400M", "service_memory_max": "500M"}
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


def reached(machine: dict[str, Any]) -> dict[str, Any]:
    """Return how Ansible reaches a machine."""
    return {
        "ansible_host": machine["ssh_host"],
        "ansible_port": machine["ssh_port"],
        "ansible_user": machine["ssh_user"],
        "ansible_ssh_private_key_file": machine["ssh_key"],
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={machine['known_hosts']}",
        # Ansible's ten seconds are too short for a sudo where several emulated machines share two cores.
        "ansible_ssh_timeout": 60,
        **({} if "memory" in machine["can"] else {"service_memory_limits": "best_effort"}),
    }


def inventory(machine: dict[str, Any]) -> dict[str, Any]:
    """Return the inventory of the demo: one entry, as for a real server."""
    return {"all": {"hosts": {"currents": {**reached(machine), "app_source": "examples/currents"}}}}


def balanced_inventory(machines: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the inventory of several hosts and the balancer before them."""
    webs = {name: machine for name, machine in machines.items() if name != BALANCER}
    hosts = {
        name: {
            **reached(machine),
            "app_source": "examples/currents",
            # Ansible comes by a forwarded port; the balancer is on the private network.
            "balancer_target": machine["lan_address"],
            **SMALL,
            **PATIENCE,
        }
        for name, machine in webs.items()
    }
    balancer = {**reached(machines[BALANCER]), "balancer_backends": list(webs), **BALANCER_PATIENCE}
    return {"all": {"hosts": hosts, "children": {"balancers": {"hosts": {BALANCER: balancer}}}}}


def described(machine: dict[str, Any]) -> str:
    """Return what a machine is, and what does not hold in it."""
    if machine["kind"] == "vm":
        return f"a virtual machine ({machine['accelerator']}), {machine['image']}"
    holds = "memory limits hold" if "memory" in machine["can"] else "no memory limit holds in it on this computer"
    return f"a container, {machine['image']}: {holds}"


def summary(machine: dict[str, Any], url: str, seconds: float) -> list[tuple[str, str]]:
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
        ("Machine", described(machine)),
        ("Health", f"{url}/health says {health['status']}, release {health['release']}"),
        ("Memory", f"{size('now')} in use, slowed down at {size('high')}, a worker killed at {size('max')}"),
        ("Logs", 'make demo-ssh CMD="sudo sitectl logs", access log in /var/log/currents/access.log'),
        ("State", 'make demo-ssh CMD="sudo sitectl status"'),
        ("Try next", 'make demo-ssh CMD="sudo pkill -KILL gunicorn", then open the URL: it only waits'),
        ("Redeploy", "edit examples/currents, then ansible-playbook -i inventory/demo.yml playbooks/deploy.yml"),
        ("Remove", "make demo-down"),
        ("Took", f"{seconds:.0f} s"),
    ]


def balanced_summary(machine: dict[str, Any], url: str, webs: list[str], seconds: float) -> list[tuple[str, str]]:
    """Return the rows of the closing table of several hosts, read from the balancer."""
    with urllib.request.urlopen(f"{url}/health", timeout=30) as answer:
        health = json.load(answer)
    return [
        ("URL", f"{url}, the balancer"),
        ("Machines", f"each {described(machine)}"),
        ("Hosts", f"{', '.join(webs)}: {url}/health says {health['status']}, release {health['release']}"),
        ("Visitors", f"python3 tools/load.py {url}/api/hero --rate 20 --seconds 600, in another terminal"),
        ("Redeploy", "edit examples/currents, then ansible-playbook -i inventory/demo.yml playbooks/deploy.yml:"),
        ("", "host by host, drained, switched, filled; then the table says who has which release"),
        ("Go back", "ansible-playbook -i inventory/demo.yml playbooks/rollback.yml"),
        ("State", f'make demo-ssh HOST={webs[0]} CMD="sudo sitectl status"'),
        ("Remove", "make demo-down"),
        ("Took", f"{seconds:.0f} s"),
    ]


def boot(name: str, kind: str, memory: int, *words: str) -> dict[str, Any]:
    """Boot a machine of a kind, or the fastest in which memory limits hold; return where it is."""
    chosen = ("--kind", kind) if kind else ("--needs", "memory")
    more = (*chosen, "--memory", str(memory), "--seed-packages", SEED_PACKAGES, "--json", "--forward", str(PORT))
    machine: dict[str, Any] = json.loads(lab("up", name, *more, *words))
    return machine


def run_site(content: dict[str, Any], again: str) -> int:
    """Write the inventory and run ``site.yml``; return its exit status."""
    head = "---\n# Written by `make demo`; `make demo-down` removes it.\n"
    INVENTORY.write_text(head + yaml.safe_dump(content), encoding="utf-8")
    site = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", INVENTORY, "site.yml"], cwd=ROOT, check=False
    )
    if site.returncode != 0:
        print(f"The site is not up. Mend what is said above, then run `{again}` again: it goes on from here.")
    return site.returncode


def show(rows: list[tuple[str, str]]) -> None:
    """Print the closing table."""
    width = max(len(label) for label, _ in rows)
    print("\n" + "\n".join(f"  {label:<{width}}  {text}" for label, text in rows))


def up(kind: str) -> int:
    """Boot the machine, run the site on it, print the table; a second run converges."""
    start = time.monotonic()
    machine = boot(MACHINE, kind, MEMORY_MIB)
    if status := run_site(inventory(machine), "make demo"):
        return status
    show(summary(machine, f"http://127.0.0.1:{machine['forwards'][str(PORT)]}", time.monotonic() - start))
    return 0


def up_balanced(hosts: int, kind: str) -> int:
    """Boot several machines and a balancer, run the site on them, print the table; a second run converges."""
    start = time.monotonic()
    webs = [f"web{number}" for number in range(1, hosts + 1)]
    names = [*webs, BALANCER]
    with ThreadPoolExecutor(len(names)) as pool:
        words = ("--cores", "1", "--network", MACHINE)
        booted = pool.map(lambda name: boot(f"{MACHINE}-{name}", kind, SMALL_MIB, *words), names)
        machines = dict(zip(names, booted, strict=True))
    if status := run_site(balanced_inventory(machines), f"make demo HOSTS={hosts}"):
        return status
    url = f"http://127.0.0.1:{machines[BALANCER]['forwards'][str(PORT)]}"
    show(balanced_summary(machines[BALANCER], url, webs, time.monotonic() - start))
    return 0


def down() -> int:
    """Remove the machines and their inventory."""
    names = [line.split()[0] for line in lab("list").splitlines()[1:] if line.strip()]
    lab("down", MACHINE, *(name for name in names if name.startswith(f"{MACHINE}-")))
    INVENTORY.unlink(missing_ok=True)
    print("The demo machine is gone.")
    return 0


def main(words: list[str]) -> int:
    """Run one command: ``down``, or ``up`` with ``HOSTS=`` and ``KIND=`` as the Makefile hands them over."""
    if words == ["down"]:
        return down()
    given = {"HOSTS": "", "KIND": "", **dict(word.partition("=")[::2] for word in words[1:])}
    hosts, kind = given["HOSTS"], given["KIND"]
    faults = []
    if kind not in ("", *KINDS):
        faults.append(f"KIND is {kind}: must be {' or '.join(KINDS)}, for example make demo KIND=container")
    if hosts and not (hosts.isdigit() and 2 <= int(hosts) <= MOST_HOSTS):
        faults.append(f"HOSTS is {hosts}: must be a whole number from 2 to {MOST_HOSTS}, for example make demo HOSTS=3")
    if faults:
        print("\n".join(faults))
        return 2
    return up_balanced(int(hosts), kind) if hosts else up(kind)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

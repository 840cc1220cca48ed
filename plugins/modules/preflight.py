#!/usr/bin/python
"""Ansible module: see whether a host can carry the site, before anything is changed on it."""

from __future__ import annotations

DOCUMENTATION = """
module: preflight
short_description: Looks whether a host can carry the site
description:
  - Reads, and changes nothing. Everything that stands in the way is reported at once.
  - Returns a few facts, so that the roles need not gather any.
options:
  name: {description: The app's name; also of its units., type: str, required: true}
  user: {description: The app's user; without one it has the app's name., type: str, default: ""}
  tunnel_user: {description: The user of the tunnel's agent; none without a tunnel., type: str, default: ""}
  port: {description: The port that the app's socket takes., type: int, required: true}
  memory_max: {description: The most memory that the app may use; for example 1G., type: str, required: true}
  memory_limits:
    description: Whether a kernel without the memory controller is refused, or only reported.
    type: str
    choices: [required, best_effort]
    default: required
  adopting: {description: Whether what listens on the port is there to be taken over., type: bool, default: false}
  disk_free_min: {description: What must be free on the disks of /srv and /var., type: str, default: 1G}
  look:
    description:
      - Paths to look at for the tasks that come later; C(*) matches in a name, and C(/**) at the end is a directory and
        all in it. None, no look at packages either.
      - The action plugin of the same name keeps what was seen for this run.
    type: list
    elements: str
    default: []
  look_units: {description: Units to look at besides., type: list, elements: str, default: []}
  look_app: {description: As M(deploy_lock) has it., type: dict, default: {}}
  look_key: {description: Seals contents; the action plugin makes one for each run., type: str, default: ""}
  lock:
    description:
      - Take the deploy lock when nothing stands in the way, and look with it; M(deploy_lock) tells of both.
      - In a task only whether; the action plugin gives the lock's options.
    type: dict
"""

RETURN = """
ansible_facts:
  description:
    - C(site_host) with os, version, codename, architecture, systemd_version, python_version, mem_total_bytes; timezone,
      empty when it cannot be told; container, its kind, empty when the host is none; time_daemons, their files in
      /usr/lib/systemd/ntp-units.d; user, with the name, home and shell of the app's user, empty when there is none.
  returned: always
  type: dict
summary: {description: A warning for the end of the run., type: list, returned: without the memory controller}
seen: {description: Paths and packages and units that are there and the app., type: dict, returned: with look}
anchor_gone: {description: As M(deploy_lock) has it., type: bool, returned: when so}
"""

import contextlib
import os
import platform
import pwd
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.host_listeners import Listener, listeners_on, read
from ansible.module_utils.host_lock import DIRECTORY, Taken, take
from ansible.module_utils.host_look import OPTIONS, everything

SUPPORTED = {"ubuntu": ("22.04", "24.04", "26.04"), "debian": ("12", "13")}
MACHINES_64_BIT = frozenset({"x86_64", "aarch64", "ppc64le", "s390x", "riscv64"})
# What the system itself needs beside the app.
SYSTEM_MEMORY_BYTES = 192 * 1024**2
FIRST_LOGIN_UID = 1000
NO_MEMORY_CONTROLLER = (
    "warning: the kernel of this host holds none; the app's guards keep its workers within service_memory_max"
)
NO_LOGIN_SHELLS = ("nologin", "false", "sync")
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


@dataclass(frozen=True)
class Wanted:
    """What the site asks of the host. Sizes are in bytes; `tunnel_user` is empty without a tunnel.

    `limits_required` is false where the site goes on without the kernel's memory limits.
    """

    name: str
    user: str
    port: int
    memory_max: int
    disk_free_min: int
    tunnel_user: str = ""
    limits_required: bool = True


@dataclass(frozen=True)
class Observed:
    """What the host is like.

    Attributes:
        init: name of process 1.
        controllers: the controllers of the unified control groups, None where there are none.
        os_id, os_version: ID and VERSION_ID of os-release.
        machine: as `uname -m` says.
        uid: of this process.
        mem_total: bytes.
        disk_free: directory -> bytes that are free on its disk.
        listeners: who listens on the wanted port; a pid of 0 is a process that could not be found.
        logins: uid and shell of the users that exist, of those with the name of the app and of its users.
    """

    init: str
    controllers: frozenset[str] | None
    os_id: str
    os_version: str
    machine: str
    uid: int
    mem_total: int
    disk_free: Mapping[str, int]
    listeners: tuple[Listener, ...]
    logins: Mapping[str, tuple[int, str]]


def parse_size(text: str) -> int:
    """Return the bytes of a size such as "800M".

    Raises:
        ValueError: it is not one.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,14})([KMGT]?)", text)
    if match is None:
        raise ValueError(f"{text!r} is not a size such as 800M or 1G")
    return int(match[1]) * _UNITS[match[2]]


def mebibytes(number: int) -> str:
    """Return a number of bytes as "512M"."""
    return f"{number // 1024**2}M"


def parse_os_release(text: str) -> dict[str, str]:
    """Return the assignments of an os-release file, without their quotes."""
    pairs = (line.split("=", 1) for line in text.splitlines() if re.match(r"[A-Z_]+=", line))
    return {key: value.strip().strip("\"'") for key, value in pairs}


def belongs_to_site(listener: Listener, name: str) -> bool:
    """Tell whether a listener is the site's own.

    That is systemd itself, which holds sockets for services, or a process in the control group of the service or of its
    front.
    """
    own_groups = (f"/system.slice/{name}.service", f"/system.slice/{name}-front.service")
    return listener.pid == 1 or any(f"{listener.cgroup}/".startswith(f"{group}/") for group in own_groups)


def login_problems(wanted: Wanted, observed: Observed) -> list[tuple[str, str]]:
    """Name the persons who would be locked out: roles take shell and home from the users of their services."""
    found = []
    # Where two are one name, the user only follows the app.
    users = {wanted.tunnel_user: "ngrok_user", wanted.user: "app_user", wanted.name: "app_name"}
    for name, setting in users.items():
        uid, shell = observed.logins.get(name, (0, ""))
        if uid >= FIRST_LOGIN_UID and not shell.endswith(NO_LOGIN_SHELLS):
            kind = setting.partition("_")[0]
            fault = f"{name} is a person's login (uid {uid}, {shell}), which would lose its shell and its home"
            found.append((setting, f"{fault}: must be a name that nobody logs in with, for example {name[:25]}-{kind}"))
    return found


def port_problems(wanted: Wanted, observed: Observed) -> list[tuple[str, str]]:
    """Name the strangers that listen on the site's port."""
    found = []
    for one in observed.listeners:
        if not belongs_to_site(one, wanted.name):
            who = f"process {one.pid} of user {one.user} ({one.command})" if one.pid else "an unknown process"
            advice = "stop it, choose another app_port or, if it is this app, take it over with its data: docs/adopt.md"
            if one.cgroup.endswith(".service"):
                unit = one.cgroup.rsplit("/", 1)[1]
                advice = f"stop it with 'sudo systemctl disable --now {unit}', or choose another app_port"
            found.append(("app_port", f"{wanted.port} is taken by {who}: {advice}"))
    return found


def problems_of(wanted: Wanted, observed: Observed) -> list[tuple[str, str]]:
    """Return everything that stands in the way, as (what it is about, what is wrong and what to do)."""
    found = []
    if observed.uid != 0:
        found.append(("sudo", "does not give root: add 'become: true', or --ask-become-pass if sudo asks for one"))
    versions = SUPPORTED.get(observed.os_id)
    if versions is None or observed.os_version not in versions:
        have = f"{observed.os_id or 'unknown'} {observed.os_version}".strip()
        known = "; ".join(f"{name} {', '.join(numbers)}" for name, numbers in SUPPORTED.items())
        found.append(("system", f"is {have}: supported are {known}"))
    if observed.machine not in MACHINES_64_BIT:
        found.append(("machine", f"is {observed.machine}: a 64-bit one is needed"))
    if observed.init != "systemd":
        found.append(("init", f"process 1 is {observed.init}: systemd is needed, so a real or virtual machine"))
    if observed.controllers is None:
        fault = "are not unified (version 2): remove systemd.unified_cgroup_hierarchy=0 from the kernel's options"
        found.append(("cgroups", f"{fault}, or no memory limit holds"))
    elif wanted.limits_required and "memory" not in observed.controllers:
        fault = "lack the memory controller: remove cgroup_disable=memory from the kernel's options"
        way_out = "or set service_memory_limits: best_effort, and no memory limit of the kernel holds"
        found.append(("cgroups", f"{fault}, {way_out}"))
    if observed.mem_total and wanted.memory_max + SYSTEM_MEMORY_BYTES > observed.mem_total:
        fault = (
            f"is {mebibytes(wanted.memory_max)}, but the host has {mebibytes(observed.mem_total)}, of which the "
            f"system needs {mebibytes(SYSTEM_MEMORY_BYTES)}"
        )
        most = mebibytes(max(0, observed.mem_total - SYSTEM_MEMORY_BYTES))
        found.append(("service_memory_max", f"{fault}: must be at most {most}"))
    for directory, free in observed.disk_free.items():
        if free < wanted.disk_free_min:
            fault = f"has {mebibytes(free)} free, {mebibytes(wanted.disk_free_min)} are needed: make room on its disk"
            found.append((directory, fault))
    found += login_problems(wanted, observed)
    return found + port_problems(wanted, observed)


def report(host: str, problems: list[tuple[str, str]]) -> str:
    """Make the message for the operator: a headline and one aligned line for each problem."""
    count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
    width = max(len(about) for about, _ in problems)
    rows = [f"  {about:<{width}}  {fault}" for about, fault in problems]
    return "\n".join([f"{count} on the host {host}; nothing was changed:", *rows])


def free_bytes(directory: str) -> int:
    """Return what is free for root's services on the disk of a directory."""
    space = os.statvfs(directory)
    return space.f_bavail * space.f_frsize


def logins_of(names: Iterable[str]) -> dict[str, tuple[int, str]]:
    """Return uid and shell of those users that exist."""
    found = {}
    for name in names:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            found[name] = (entry.pw_uid, entry.pw_shell)
    return found


def about_user(name: str) -> dict[str, str]:
    """Return name, home and shell of a user, or nothing."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return {}
    return {"name": name, "home": entry.pw_dir, "shell": entry.pw_shell}


def timezone(localtime: Path = Path("/etc/localtime")) -> str:
    """Return the time zone as systemd knows it: where the link leads (localtime(5)); empty when it is none."""
    try:
        return str(localtime.readlink()).partition("/zoneinfo/")[2]
    except OSError:
        return ""


def container(root: Path = Path("/")) -> str:
    """Return what kind of container the host is, as systemd-detect-virt calls it; empty when it is none."""
    # Containers of OpenVZ have the first; its computers have both.
    if (root / "proc/vz").exists() and not (root / "proc/bc").exists():
        return "openvz"
    # systemd writes there what the manager of the container has told it.
    return read(str(root / "run/systemd/container")).strip()


def observe(wanted: Wanted) -> tuple[Observed, dict[str, Any]]:
    """Read the host; return what is judged, and the facts for the roles."""
    release = parse_os_release(read("/etc/os-release"))
    memory = re.search(r"^MemTotal:\s+(\d+) kB", read("/proc/meminfo"), re.MULTILINE)
    controllers = Path("/sys/fs/cgroup/cgroup.controllers")
    observed = Observed(
        init=read("/proc/1/comm").strip(),
        controllers=frozenset(read(str(controllers)).split()) if controllers.exists() else None,
        os_id=release.get("ID", ""),
        os_version=release.get("VERSION_ID", ""),
        machine=platform.machine(),
        uid=os.geteuid(),
        mem_total=int(memory[1]) * 1024 if memory else 0,
        disk_free={path: free_bytes(path) for path in ("/srv", "/var") if Path(path).is_dir()},
        listeners=listeners_on(wanted.port),
        logins=logins_of((wanted.name, wanted.user, wanted.tunnel_user)),
    )
    facts = {
        "os": observed.os_id,
        "version": observed.os_version,
        "codename": release.get("VERSION_CODENAME", ""),
        "architecture": observed.machine,
        "mem_total_bytes": observed.mem_total,
        "python_version": platform.python_version(),
        "hostname": platform.node(),
        "timezone": timezone(),
        "container": container(),
        # systemd-timedated looks there, too: time daemons exclude one another.
        "time_daemons": sorted(str(path) for path in Path("/usr/lib/systemd/ntp-units.d").glob("*.list")),
        "user": about_user(wanted.user),
    }
    return observed, facts


def systemd_version(output: str) -> int:
    """Return the number in the first line of `systemctl --version`, 0 where there is none."""
    match = re.match(r"systemd (\d+)", output)
    return int(match[1]) if match else 0


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "user": {"type": "str", "default": ""},
            "tunnel_user": {"type": "str", "default": ""},
            "port": {"type": "int", "required": True},
            "memory_max": {"type": "str", "required": True},
            "memory_limits": {"type": "str", "choices": ["required", "best_effort"], "default": "required"},
            "adopting": {"type": "bool", "default": False},
            "disk_free_min": {"type": "str", "default": "1G"},
            **OPTIONS,
            "lock": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    options = module.params
    try:
        memory_max, disk_free_min = parse_size(options["memory_max"]), parse_size(options["disk_free_min"])
    except ValueError as error:
        module.fail_json(msg=str(error))
    user = options["user"] or options["name"]
    required = options["memory_limits"] == "required"
    wanted = Wanted(options["name"], user, options["port"], memory_max, disk_free_min, options["tunnel_user"], required)
    observed, facts = observe(wanted)
    systemctl = module.get_bin_path("systemctl")
    version = module.run_command([systemctl, "--version"])[1] if systemctl else ""
    facts["systemd_version"] = systemd_version(version)
    returned: dict[str, Any] = {"changed": False, "ansible_facts": {"site_host": facts}}
    if options["adopting"]:
        observed = replace(observed, listeners=())
    problems = problems_of(wanted, observed)
    if problems:
        module.fail_json(msg=report(facts["hostname"], problems), **returned)
    if "memory" not in (observed.controllers or ()):
        returned["summary"] = [("memory limits", NO_MEMORY_CONTROLLER)]
    if options["lock"]:
        try:
            if not take({"name": wanted.name, **options["lock"]}, Path(DIRECTORY, f"{wanted.name}.deploy.lock")):
                module.exit_json(**returned, anchor_gone=True)
        except Taken as error:
            module.fail_json(msg=str(error), **returned)
    module.exit_json(**returned, **everything(options))


if __name__ == "__main__":
    main()

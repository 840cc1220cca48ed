"""The command line: `python -m lab COMMAND`."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from lab import kinds
from lab.definition import Definition
from lab.errors import GuestLostError, HostError, LabError, UsageError
from lab.machine import Machine
from lab.paths import Home, check_name
from lab.progress import say
from lab.releases import RELEASES

_EPILOG = f"""\
exit status: 0 done; 1 failed; 2 wrong use; 3 this computer is not ready;
{GuestLostError.exit_status} the machine is lost
(`lab ssh` returns the status of the command that ran in the machine)
"""
_NOT_RUNNING = 3


def parse_size(text: str) -> int:
    """Return the bytes of `8G`, `512M` or a plain number; raise UsageError otherwise."""
    match = re.fullmatch(r"(\d+)([KMGT]?)", text.upper())
    if not match or not int(match[1]):
        raise UsageError(f"{text!r} is not a size. Write it like 8G or 512M.")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[match[2]]


def parse_port(text: str) -> int:
    """Return a port number from 1 to 65535; raise UsageError otherwise."""
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise UsageError(f"{text!r} is not a port. Write a number from 1 to 65535.")
    return int(text)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="lab",
        description="Disposable Debian and Ubuntu machines: containers, or virtual ones in QEMU.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, handler: Callable[[argparse.Namespace, Home], int]) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(handler=handler)
        return command

    up = add("up", "Make and start a machine; nothing to do when it runs already.", _up)
    up.add_argument("name")
    up.add_argument("--image", default="debian12", help=f"one of {', '.join(RELEASES)} (default: %(default)s)")
    of_vm = "default: %(default)s; a container has this computer's"
    up.add_argument("--memory", type=int, default=2048, metavar="MIB", help=of_vm)
    up.add_argument("--disk", default="8G", metavar="SIZE", help=of_vm)
    up.add_argument("--cores", type=int, default=2, help=of_vm)
    up.add_argument(
        "--forward",
        nargs="+",
        action="extend",
        default=[],
        metavar="PORT",
        help="ports of the guest to reach from here",
    )
    up.add_argument("--network", metavar="LAN", help="join the private network of this name")
    up.add_argument("--packages", default="", metavar="A,B", help="packages to have installed")
    up.add_argument("--seed-packages", default="", metavar="A,B", help="packages to have downloaded, not installed")
    up.add_argument("--kind", choices=kinds.KINDS, help="default: the fastest that has what is needed")
    up.add_argument(
        "--needs",
        default=",".join(kinds.ABILITIES),
        metavar="A,B",
        help="what the machine must have: "
        + "; ".join(f"{name}: {text}" for name, text in kinds.ABILITIES.items())
        + "; or none (default: all)",
    )
    up.add_argument("--json", action="store_true", help="print where the machine is as JSON")
    for name, text, handler in (
        ("down", "Remove machines and everything of them.", _down),
        ("reboot", "Reboot from inside and wait until it is back.", _reboot),
        ("cut-power", "Cut the power and start the same disk again.", _cut_power),
    ):
        add(name, text, handler).add_argument("names", nargs="+", metavar="name")
    status = add("status", "Tell how a machine is; exit status 0 only when it runs.", _status)
    status.add_argument("name")
    status.add_argument("--json", action="store_true")
    remote = add("ssh", "Log in, or run a command and return its exit status.", _ssh)
    remote.add_argument("name")
    remote.add_argument("remote", nargs=argparse.REMAINDER, metavar="command")
    add("list", "List the machines.", _list)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    arguments = build_parser().parse_args(argv)
    try:
        return int(arguments.handler(arguments, Home.from_environment()))
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("lab: interrupted. `python -m lab list` shows what is left.", file=sys.stderr)
        return 130


def parse_names(text: str) -> tuple[str, ...]:
    """Return the names between commas, each once."""
    return tuple(sorted({name for name in text.split(",") if name}))


def kind_from(arguments: argparse.Namespace, computer: kinds.Computer) -> str:
    """Return the kind of machine that is asked for, or that has what is needed.

    Raises HostError when no container can be made here, UsageError when one lacks what is needed.
    """
    needs = kinds.parse_needs(arguments.needs)
    if arguments.kind is None:
        kind = kinds.choose(needs, computer)
        if kind == kinds.VM and kinds.choose(needs, replace(computer, no_container="")) == kinds.CONTAINER:
            say(f"an emulated VM, for there can be no container: {computer.no_container}")
        return kind
    if arguments.kind == kinds.CONTAINER and computer.no_container:
        raise HostError(f"There can be no container here: {computer.no_container}.")
    # Who names the kind alone has said what it may lack.
    if arguments.needs != ",".join(kinds.ABILITIES):
        kinds.check(arguments.kind, needs, computer)
    return str(arguments.kind)


def definition_from(arguments: argparse.Namespace, kind: str = kinds.VM) -> Definition:
    """Turn the options of `up` into a definition; raise UsageError for the impossible ones."""
    if arguments.memory < 256:
        raise UsageError("A machine needs --memory 256 at least (MiB).")
    if arguments.cores < 1:
        raise UsageError("A machine needs --cores 1 at least.")
    disk_bytes = parse_size(arguments.disk)
    if disk_bytes < 2 << 30:
        raise UsageError("A machine needs --disk 2G at least.")
    return Definition(
        image=arguments.image,
        memory_mib=arguments.memory,
        disk_bytes=disk_bytes,
        cores=arguments.cores,
        forwards=tuple(sorted({parse_port(port) for port in arguments.forward} - {22})),
        network=check_name(arguments.network, "network") if arguments.network else None,
        packages=parse_names(arguments.packages),
        seed_packages=parse_names(arguments.seed_packages),
        kind=kind,
    )


def _up(arguments: argparse.Namespace, home: Home) -> int:
    kind = kind_from(arguments, kinds.this_computer())
    place = Machine(home, arguments.name).up(definition_from(arguments, kind))
    if arguments.json:
        print(json.dumps(place))
        return 0
    how = place["kind"] if place["kind"] == kinds.CONTAINER else f"{place['kind']}, {place['accelerator']}"
    print(f"{place['name']} runs {place['image']} ({how}).")
    print(f"  log in:      python -m lab ssh {place['name']}   (port {place['ssh_port']})")
    for guest, host in place["forwards"].items():
        print(f"  port {guest}:   http://{place['ssh_host']}:{host}/")
    if place["lan_address"]:
        print(f"  on the LAN:  {place['lan_address']}")
    print(f"  console:     {place['serial_log']}")
    return 0


def _down(arguments: argparse.Namespace, home: Home) -> int:
    for name in arguments.names:
        machine = Machine(home, name)
        # Whoever removes it after a failure wants to know whether it was the machine's.
        if trouble := machine.trouble():
            print(f"LOST {trouble}")
        print(f"{name} {'removed' if machine.down() else 'was not there'}")
    return 0


def _reboot(arguments: argparse.Namespace, home: Home) -> int:
    for name in arguments.names:
        Machine(home, name).reboot()
        print(f"{name} rebooted")
    return 0


def _cut_power(arguments: argparse.Namespace, home: Home) -> int:
    for name in arguments.names:
        Machine(home, name).cut_power()
        print(f"{name} lost its power and is back")
    return 0


def _status(arguments: argparse.Namespace, home: Home) -> int:
    machine = Machine(home, arguments.name)
    state = machine.state()
    if arguments.json:
        place = machine.describe() if machine.record else {"name": arguments.name}
        print(json.dumps({**place, "state": state}))
    else:
        print(f"{arguments.name} {state}")
    return 0 if state == "running" else _NOT_RUNNING


def _ssh(arguments: argparse.Namespace, home: Home) -> int:
    command = arguments.remote[1:] if arguments.remote[:1] == ["--"] else arguments.remote
    return Machine(home, arguments.name).interactive(command, terminal=sys.stdin.isatty())


def _list(arguments: argparse.Namespace, home: Home) -> int:
    rows = [("NAME", "STATE", "KIND", "IMAGE", "SSH PORT", "LAN ADDRESS")]
    for name in home.machine_names():
        machine = Machine(home, name)
        record = machine.record
        port = str(record.ports.get(22, "")) if record else ""
        rows.append(
            (
                name,
                machine.state(),
                record.definition.kind if record else "-",
                record.definition.image if record else "-",
                port,
                (record and record.lan_address) or "-",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0

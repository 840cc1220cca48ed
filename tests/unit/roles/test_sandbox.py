"""The sandbox of the service role's units: every line of it, and systemd's own score of the whole."""

from __future__ import annotations

import re

import pytest

from tests.unit.rendering import parse_unit, render, unit_root
from tests.unit.roles.test_service_units import PROGRAMS, rendered

#: What belongs to the sandbox, ours or not (systemd.exec(5), systemd.resource-control(5)): a line that opens a way out,
#: such as `ReadWritePaths=` or `DeviceAllow=`, fails too.
OF_THE_SANDBOX = re.compile(
    r"Service\.(User|Group|DynamicUser|SupplementaryGroups|UMask|NoNewPrivileges|SecureBits|CapabilityBoundingSet"
    r"|AmbientCapabilities|Protect\w+|Private\w+|Restrict\w+|DevicePolicy|DeviceAllow|ProcSubset|LockPersonality"
    r"|MemoryDenyWriteExecute|RemoveIPC|KeyringMode|SystemCall\w+|IPAddress\w+|Delegate\w*|Mount\w+|Root\w+"
    r"|\w+Paths|TemporaryFileSystem|PermissionsStartOnly)"
)
SANDBOX = {
    # Directive                 values, in order
    "User":                     ["currents"],
    "Group":                    ["currents"],
    "NoNewPrivileges":          ["yes"],
    "CapabilityBoundingSet":    [""],
    "AmbientCapabilities":      [""],
    "ProtectSystem":            ["strict"],
    "ProtectHome":              ["yes"],
    "PrivateTmp":               ["yes"],
    "PrivateDevices":           ["yes"],
    "PrivateUsers":             ["yes"],
    "DevicePolicy":             ["closed"],
    "ProtectKernelTunables":    ["yes"],
    "ProtectKernelModules":     ["yes"],
    "ProtectKernelLogs":        ["yes"],
    "ProtectControlGroups":     ["yes"],
    "ProtectClock":             ["yes"],
    "ProtectHostname":          ["yes"],
    "ProtectProc":              ["invisible"],
    "ProcSubset":               ["pid"],
    "RestrictAddressFamilies":  ["AF_UNIX AF_INET AF_INET6"],
    "RestrictNamespaces":       ["yes"],
    "RestrictRealtime":         ["yes"],
    "RestrictSUIDSGID":         ["yes"],
    "LockPersonality":          ["yes"],
    "MemoryDenyWriteExecute":   ["yes"],
    "RemoveIPC":                ["yes"],
    "KeyringMode":              ["private"],
    "SystemCallArchitectures":  ["native"],
    "SystemCallFilter":         ["@system-service", "~@privileged @resources"],
    "SystemCallErrorNumber":    ["EPERM"],
    "UMask":                    ["0077"],
}  # fmt: skip


def sandbox(**settings):
    unit = parse_unit(render("service", "app.service.j2", wired=True, **settings))
    return {name.removeprefix("Service."): values for name, values in unit.items() if OF_THE_SANDBOX.fullmatch(name)}


@pytest.mark.parametrize("kind", ["app", "trial", "task"])
def test_each_line_of_the_sandbox_stands_in_the_unit_and_no_other(kind):
    assert sandbox(kind=kind) == SANDBOX


def test_an_app_that_makes_code_while_it_runs_loses_one_line_of_the_sandbox():
    assert sandbox(service_memory_deny_write_execute=False) == SANDBOX | {"MemoryDenyWriteExecute": ["no"]}


@pytest.mark.parametrize("deny", [True, False])
def test_the_score_of_the_sandbox_is_as_promised(tmp_path, analyze, deny):
    root = unit_root(tmp_path, rendered(service_memory_deny_write_execute=deny), PROGRAMS)
    result = analyze(root, "security", "--offline=true", "--threshold=13", "currents.service")
    assert result.returncode == 0, result.stdout

"""The host role's files, read by the programs that read them on a host."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.polling import PATIENCE_SECONDS
from tests.unit.rendering import parse_unit, render, unit_root, value_of

SWAP_FILES = ["/swapfile", "/var/lib/swap-file", "/mnt/big-disk/swap.1", "/srv/swap_2/a-b-c"]


def output(*words):
    """Return what a program of the distribution says; it has to succeed."""
    program = shutil.which(words[0], path="/usr/sbin:/usr/bin:/sbin:/bin")
    assert program, f"{words[0]} is missing: the unit tests need a Debian or Ubuntu controller"
    return subprocess.run(
        [program, *words[1:]], capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS
    ).stdout


@pytest.mark.parametrize(("enabled", "value"), [(True, "1"), (False, "0")])
def test_apt_reads_its_settings_as_they_are_meant(tmp_path, enabled, value):
    path = tmp_path / "apt.conf"
    path.write_text(render("host", "apt.conf.j2", wired=True, host_upgrades_enabled=enabled))
    lines = output("apt-config", "-c", str(path), "dump").splitlines()
    assert f'APT::Periodic::Unattended-Upgrade "{value}";' in lines
    assert f'APT::Periodic::Update-Package-Lists "{value}";' in lines
    assert 'Unattended-Upgrade::Automatic-Reboot "false";' in lines
    assert 'DPkg::Lock::Timeout "300";' in lines


def test_needrestart_reads_that_it_restarts_by_itself_and_never_asks(tmp_path):
    path = tmp_path / "needrestart.conf"
    path.write_text(render("host", "needrestart.conf.j2", wired=True))
    # needrestart evaluates its files as Perl, with %nrconf already there.
    program = "our %nrconf; defined(do $ARGV[0]) or die $@; print join ' ', %nrconf{restart};"
    output("perl", "-c", str(path))
    assert output("perl", "-e", program, str(path)) == "restart a"


def test_the_journal_survives_a_boot_and_has_a_limit():
    journal = parse_unit(render("host", "journald.conf.j2", wired=True, host_journal_max_size="200M"))
    assert journal == {
        "Journal.Storage": ["persistent"],
        "Journal.SystemMaxUse": ["200M"],
        "Journal.Compress": ["yes"],
    }


@pytest.mark.parametrize(("size", "swaps"), [("1G", True), ("512M", True), ("0", False), (0, False), ("00", False)])
def test_a_size_of_0_leaves_swap_alone_however_it_is_written(size, swaps):
    assert value_of("host", "__host_swaps", host_swap_size=size) is swaps


@pytest.mark.parametrize("path", SWAP_FILES)
def test_the_swap_unit_is_named_as_systemd_wants_it(path):
    wanted = output("systemd-escape", "--path", "--suffix=swap", path).strip()
    assert value_of("host", "__host_swap_unit", wired=True, host_swap_file=path) == wanted


@pytest.mark.parametrize("path", SWAP_FILES)
def test_systemd_finds_no_fault_in_the_swap_units(tmp_path, verify, path):
    name = output("systemd-escape", "--path", "--suffix=swap", path).strip()
    units = {
        name: render("host", "swap.j2", wired=True, host_swap_file=path),
        "sitekeeper-make-swap.service": render("host", "make-swap.service.j2", wired=True, host_swap_file=path),
    }
    root = unit_root(tmp_path, units, ("/bin/sh",))
    assert verify(root, "sitekeeper-make-swap.service", name) == ""
    make = parse_unit(units["sitekeeper-make-swap.service"])
    assert make["Unit.Before"] == [name]
    assert make["Unit.ConditionPathExists"] == [f"!{path}"]


def test_systemd_would_find_a_swap_unit_with_a_wrong_name(tmp_path, verify):
    units = {
        "swap-file.swap": render("host", "swap.j2", wired=True, host_swap_file="/swap-file"),
        "sitekeeper-make-swap.service": render("host", "make-swap.service.j2", wired=True),
    }
    assert "swap-file" in verify(unit_root(tmp_path, units, ("/bin/sh",)), "swap-file.swap")


def test_the_swap_is_used_only_after_its_file_is_made():
    # The default "simple" counts as started while the command still runs, and the swap unit behind it would go ahead.
    make = parse_unit(render("host", "make-swap.service.j2", wired=True))
    assert make["Service.Type"] == ["oneshot"]


def test_a_power_cut_leaves_no_half_made_swap_file():
    (command,) = parse_unit(render("host", "make-swap.service.j2", wired=True))["Service.ExecStart"]
    steps = command.removeprefix("/bin/sh -c '").removesuffix("'").split(" && ")
    assert steps == [
        "rm -f /swapfile.new",
        "fallocate --length 1G /swapfile.new",
        "mkswap /swapfile.new",
        "mv /swapfile.new /swapfile",
    ]


def test_the_swap_is_used_at_boot():
    unit = parse_unit(render("host", "swap.j2", wired=True))
    assert unit["Swap.What"] == ["/swapfile"]
    assert unit["Unit.Requires"] == unit["Unit.After"] == ["sitekeeper-make-swap.service"]
    assert unit["Install.WantedBy"] == ["swap.target"]

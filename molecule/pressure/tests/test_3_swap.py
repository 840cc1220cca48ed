"""The host swaps to and fro, or its watchdog for memory kills the app: it does not crawl, and it is back."""

from __future__ import annotations

import re

import pytest

from tests.outside import lost

pytestmark = [pytest.mark.usefixtures("well"), pytest.mark.needs("memory", "kernel")]

#: Until the app has started, where the processor is emulated.
START_SECONDS = 120
#: systemd-oomd may have killed it several times until that is seen here; each start then waits for longer.
LONGEST_PAUSE = 60
#: Takes more than there is, and touches all of it again and again: what is out must come in and the other way round.
THRASH = (
    "import itertools, mmap\n"
    "free = int(next(line for line in open('/proc/meminfo') if line.startswith('MemAvailable')).split()[1]) << 10\n"
    "kept = mmap.mmap(-1, free + (256 << 20))\n"
    "for place in itertools.cycle(range(0, len(kept), mmap.PAGESIZE)):\n"
    "    kept[place] = 1\n"
)
#: It acts as soon as everything stood still for a tenth of two seconds; by itself it waits for half a minute.
OOMD = "[OOM]\\nDefaultMemoryPressureLimit=10%\\nDefaultMemoryPressureDurationSec=2s\\n"


@pytest.fixture
def own(root, show):
    """One of the kernel's figures of the app's memory."""
    group = f"/sys/fs/cgroup{show('currents.service', 'ControlGroup')}"
    return lambda name: root.file(f"{group}/{name}").content_string


@pytest.fixture
def oomd(root):
    """The watchdog for memory that Ubuntu's desktops have, set to act at once."""
    root.check_output("DEBIAN_FRONTEND=noninteractive apt-get install --quiet --quiet --yes systemd-oomd")
    root.check_output("mkdir -p /run/systemd/oomd.conf.d")
    root.check_output("printf %%b %s > /run/systemd/oomd.conf.d/test.conf", OOMD)
    root.check_output("systemctl restart systemd-oomd.service")
    yield
    root.check_output("rm /run/systemd/oomd.conf.d/test.conf")
    root.check_output("systemctl disable --now systemd-oomd.service systemd-oomd.socket")


def test_host_has_its_swap_file_and_its_clock(root):
    assert "/swapfile" in root.file("/proc/swaps").content_string
    assert root.check_output("timedatectl show --property=NTP --value") == "yes"


def test_a_host_that_swaps_to_and_fro_does_not_swap_the_app(root, show, site, own, visitors, poll):
    def stalled() -> float:
        """How much of the last ten seconds nobody could go on for want of memory, in percent."""
        lines = root.file("/proc/pressure/memory").content_string
        return float(re.findall(r"full avg10=([0-9.]+)", lines)[0])

    def out() -> int:
        """Bytes of the host that are in the swap file."""
        lines = root.check_output("swapon --show=USED --bytes --noheadings")
        return int(lines.strip() or 0)

    before = out()
    with visitors(rate=1.0, timeout=60) as load:
        load.wait(3)
        root.check_output("systemd-run --quiet --collect --unit=hog -p OOMScoreAdjust=500 python3 -c %s", THRASH)
        try:
            poll(lambda: stalled() > 10, 180, "the host stands still a tenth of the time")
            assert out() > before + (64 << 20), "it swaps"
            assert own("memory.swap.max").strip() == "0"
            assert own("memory.swap.current").strip() == "0", "the app is not among what is out"
        finally:
            root.check_output("systemctl stop hog.service")
        poll(site.healthy, 10 + START_SECONDS, "the site well as soon as there is room")
        load.wait(3)
    assert lost(load.stop()) == {}


@pytest.mark.usefixtures("oomd")
def test_an_app_that_systemd_oomd_kills_is_started_again(root, show, site, poll):
    begin = root.check_output("date +%s")
    run, master, high = (show("currents.service", name) for name in ("InvocationID", "MainPID", "MemoryHigh"))
    root.check_output(
        "systemctl set-property --runtime currents.service "
        "ManagedOOMMemoryPressure=kill ManagedOOMMemoryPressureLimit=1% MemoryHigh=48M"
    )

    def said(unit: str) -> str:
        # A visitor each time: what nobody asks for anything needs no memory.
        site.healthy()
        return root.check_output("journalctl -q --no-pager -u %s --since=@%s -o cat", unit, begin)

    try:
        poll(
            lambda: "Killed /system.slice/currents.service" in said("systemd-oomd.service"), 120, "systemd-oomd killed"
        )
    finally:
        # `revert` alone leaves the kernel's limit of the unit that runs as it was.
        root.check_output("systemctl set-property --runtime currents.service MemoryHigh=%s", high)
        root.check_output("systemctl revert currents.service")
    poll(lambda: show("currents.service", "InvocationID") != run, 10, "started again")
    poll(lambda: show("currents.service", "MainPID") not in (master, "0"), LONGEST_PAUSE + 10, "by another master")
    assert "systemd-oomd killed" in said("currents.service"), "and not the watchdog of the app"
    poll(site.healthy, START_SECONDS, "the site well")

"""The host boots without a network: the app is up all the same, and is reached as soon as the network comes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
PROOF = "/var/lib/offline-proof"
#: Runs at boot in the network's place, and lets it come when the app has answered.
UNIT = """[Unit]
After=currents.service

[Service]
Type=exec
ExecStart=/usr/bin/python3 /usr/local/bin/offline-check
TimeoutStartSec=infinity

[Install]
WantedBy=multi-user.target
"""
CHECK = f"""import json, subprocess, time, urllib.request
end = time.monotonic() + 150
status = 0
while status != 200 and time.monotonic() < end:
    try:
        status = urllib.request.urlopen("http://127.0.0.1:5555/health", timeout=10).status
    except OSError:
        time.sleep(0.5)
routes = subprocess.run(["ip", "route"], capture_output=True, text=True).stdout
json.dump({{"status": status, "routes": routes}}, open("{PROOF}", "w"))
subprocess.run(["systemctl", "enable", "--now", "systemd-networkd.service"])
"""


def test_it_is_up_without_a_network_and_reached_when_there_is_one(root, site, machine, poll):
    for path, text in (("/etc/systemd/system/offline-check.service", UNIT), ("/usr/local/bin/offline-check", CHECK)):
        root.check_output("python3 -c %s %s %s", "import sys; open(sys.argv[1], 'w').write(sys.argv[2])", path, text)
    root.check_output("systemctl enable offline-check.service")
    root.check_output("systemctl disable systemd-networkd.service systemd-networkd.socket && sync")
    # By the power switch: a shutdown of its own would have to say goodbye over the network.
    assert (
        subprocess.run([sys.executable, "-m", "lab", "cut-power", machine], cwd=REPOSITORY, check=False).returncode == 0
    )
    poll(site.healthy, 120, "reached from outside")
    done = subprocess.run(
        [sys.executable, "-m", "lab", "ssh", machine, "cat", PROOF], cwd=REPOSITORY, stdout=subprocess.PIPE, check=True
    )
    assert json.loads(done.stdout) == {"status": 200, "routes": ""}, "the app answered before there was a network"

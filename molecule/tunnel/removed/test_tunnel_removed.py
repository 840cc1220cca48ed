"""What is left of a tunnel whose token was taken out of the settings."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.edge.client import RunningEdge, until

TOKEN = "2testtokenTESTTOKENtesttoken_3testtokenTESTTOKEN"


def test_agent_is_gone_and_comes_back_at_no_boot(host):
    assert host.run("pgrep --exact ngrok").rc == 1
    assert host.run("systemctl cat ngrok.service").rc != 0
    assert host.run("find /etc/systemd/system -name ngrok.service").stdout == ""


def test_token_is_nowhere_on_the_host(host):
    with host.sudo():
        assert not host.file("/etc/ngrok").exists
        assert host.run("grep --recursive --files-with-matches %s /etc /usr/local /run", TOKEN).stdout == ""


def test_address_is_offline():
    edge = RunningEdge(Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "edge")
    until("the endpoint is gone", 30, lambda: edge.control.state()["online"] == [])
    assert edge.get("site.example.com")[1] == "ERR_NGROK_3200"


def test_app_runs_on(host):
    visit = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:5555/health', timeout=30).status)"
    assert host.check_output("python3 -c %s", visit) == "200"

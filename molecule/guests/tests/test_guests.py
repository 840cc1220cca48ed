"""Two published apps on one machine, each with its own user, port, units and data."""

from __future__ import annotations

import json
import uuid

import pytest

HEALTH = {"pypiserver": "/health", "buku": "/api/tags"}
# The made-up secret of the inventory. tools/scenarios.py looks for it in all output.
CANARY = "canary-4ce1f1d5a0b94e1c"


def upload(site) -> str:
    """Upload a package to pypiserver and return how to find it again."""
    name = f"kept{uuid.uuid4().hex[:8]}"
    edge = uuid.uuid4().hex
    body = (
        f'--{edge}\r\nContent-Disposition: form-data; name=":action"\r\n\r\nfile_upload\r\n'
        f'--{edge}\r\nContent-Disposition: form-data; name="content"; filename="{name}-1.0.tar.gz"\r\n'
        f"Content-Type: application/octet-stream\r\n\r\nnot empty\r\n--{edge}--\r\n"
    )
    answer = site.post("/", body.encode(), f"multipart/form-data; boundary={edge}")
    assert answer.status == 200, answer.body
    return name


def bookmark(site) -> str:
    """Add a bookmark to buku's database and return how to find it again."""
    title = f"kept{uuid.uuid4().hex[:8]}"
    body = {"url": f"http://example.org/{title}", "title": title, "tags": ["kept"], "fetch": False}
    answer = site.post("/api/bookmarks", json.dumps(body).encode(), "application/json")
    assert answer.status == 200, answer.body
    return title


WRITE = {"pypiserver": upload, "buku": bookmark}
READ = {"pypiserver": "/packages/", "buku": "/api/bookmarks"}


def test_app_is_healthy(site, entry):
    assert site.get(HEALTH[entry], seconds=60).status == 200


def test_app_runs_as_its_own_user_in_its_own_units(show, entry):
    assert show(f"{entry}.service", "User") == entry
    assert show(f"{entry}.service", "ActiveState") == "active"
    assert show(f"{entry}.socket", "ActiveState") == "active"
    assert show(f"{entry}.service", "NRestarts") == "0"


def test_write_survives_a_restart(root, site, entry):
    kept = WRITE[entry](site)
    root.check_output("systemctl restart %s", f"{entry}.service")
    assert kept in site.get(READ[entry], seconds=90).body


def test_neighbour_cannot_be_read(root, entry):
    neighbour = next(name for name in HEALTH if name != entry)
    for directory in (f"/var/lib/{neighbour}", f"/srv/{neighbour}", f"/etc/{neighbour}"):
        assert root.run("setpriv --reuid=%s --regid=%s --clear-groups ls %s", entry, entry, directory).rc != 0


def test_cron_watches_both(root, poll, entry):
    poll(
        lambda: "verdict=healthy" in root.run("journalctl --no-pager -q -t %s", f"sitectl-{entry}").stdout,
        130,
        "a healthy check in the journal",
    )


@pytest.mark.parametrize(
    "place",
    [
        "systemctl show buku.service",
        "systemctl cat buku.service",
        "ps -eo args",
        "journalctl --no-pager -q",
        "find / -xdev -type f -perm -004 -newer /etc/machine-id -size -2000k -exec cat {} +",
    ],
)
def test_secret_shows_nowhere(root, place):
    found = root.run(f"{place} | grep -c -a {CANARY[:-1]}[c]").stdout.strip()
    assert found == "0", place


def test_secret_is_where_the_app_reads_it(root):
    assert CANARY in root.file("/etc/buku/app.env").content_string

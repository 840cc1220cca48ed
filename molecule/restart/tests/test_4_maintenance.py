"""Maintenance: visitors get a page and a time to come again, the app runs on, and it is over by itself."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest

pytestmark = pytest.mark.usefixtures("well")

#: A worker looks at the file once a second.
NOTICED_SECONDS = 10
#: A start of the app, where the processor is emulated and the other core is busy too.
START_SECONDS = 150


@pytest.fixture
def maintenance(root):
    """Give sitectl's switch; at the end it is off whatever happened."""
    yield lambda *words: root.check_output("sitectl maintenance " + " ".join(["%s"] * len(words)), *words)
    root.check_output("sitectl maintenance off")


def closed(site, path="/"):
    """Return the page and the seconds of Retry-After that a visitor from outside gets, or None when the app answers."""
    try:
        with urllib.request.urlopen(site.url + path, timeout=START_SECONDS):
            return None
    except urllib.error.HTTPError as error:
        assert error.code == 503
        return error.read().decode(), int(error.headers["Retry-After"])


def test_visitors_get_the_page_through_a_restart_and_the_health_stays_true(
    site, root, show, workers, operations, maintenance, poll
):
    before = workers()
    maintenance("on", "--minutes", "20", "--message", "Back at noon.")
    # Both workers have noticed when the command returns, and not only the one that it asked.
    answers = [closed(site) for _ in range(10)]
    assert all(answers), answers
    page, seconds = answers[0]
    assert "Back at noon." in page
    assert 1000 < seconds <= 1200
    assert site.get("/health").status == 200
    poll(lambda: json.loads(operations("/readyz"))["status"] == "ready", NOTICED_SECONDS, "ready, as it is")
    assert root.run("sitectl check").rc == 0, "the monitor is content"
    assert "ON until" in root.check_output("sitectl status")
    assert workers() == before

    run = show("currents.service", "InvocationID")
    root.check_output("systemctl restart currents.service")
    assert show("currents.service", "InvocationID") != run
    assert closed(site), "a restart keeps it"

    maintenance("off")
    poll(lambda: closed(site) is None, NOTICED_SECONDS, "open again")


def test_it_is_over_by_itself(site, root, maintenance, poll):
    maintenance("on", "--minutes", "0.3")
    assert closed(site)
    poll(lambda: closed(site) is None, 18 + NOTICED_SECONDS, "open again")
    assert root.file("/etc/currents/maintenance.json").exists, "nobody removed it"
    assert "ON until" not in root.check_output("sitectl status")

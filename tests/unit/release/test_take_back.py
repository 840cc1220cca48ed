"""What a take-back achieves is what is said of it, and one that is cut off is finished."""

from __future__ import annotations

import pytest

from siterelease.host import ReleaseError
from siterelease.releases import BAD
from siterelease.switch import switch

pytestmark = pytest.mark.usefixtures("app")


def deploy(settings, releases):
    return switch(settings, releases, "me@here", retry_bad=False, check=False)


def test_a_site_that_is_down_after_a_take_back_is_said_to_be_down(settings, releases, build, systemd, running):
    build("second")
    systemd.failing["restart currents.service"] = "Job failed"
    with pytest.raises(ReleaseError, match=r"(?s)second was taken back, and one is not well: .*sudo sitectl") as error:
        deploy(settings, releases)
    assert "serves again" not in str(error.value)
    assert "not well: currents.service" in releases.records()[-1]["result"]


def test_where_there_is_nothing_to_go_back_to_it_is_said_that_the_bad_one_stays(
    settings, releases, build, systemd, running
):
    releases.write("one", BAD, {"why": "rolled back by me"})
    build("second")
    systemd.failing["restart currents.service"] = "Job failed"
    with pytest.raises(ReleaseError, match="second is not well, and there is no release to go back to: it stays"):
        deploy(settings, releases)
    assert releases.pointed("current") == "second"

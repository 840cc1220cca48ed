"""When a release is taken back after the switch, and when it is left alone."""

from __future__ import annotations

import pytest

from siterelease import host, watch
from siterelease.releases import LIVE
from siterelease.watch import Sample, verdict


def samples(*problems, restarts=(), exits=(), changing=()):
    """One a second: an empty problem is well; restarts and exits hold for the last of them."""
    count = len(problems)
    return [
        Sample(
            at,
            problem,
            restarts[at] if at < len(restarts) else (restarts or [0])[-1],
            exits[at] if at < len(exits) else (exits or [0])[-1],
            at in changing,
        )
        for at, problem in zip(range(count), problems, strict=True)
    ]


@pytest.mark.parametrize(
    "seen",
    [
        [],
        samples(*[""] * 60),
        samples(*["503"] * 60),
        samples("", *["503"] * 14),
        samples("", *["503"] * 14, "", *["503"] * 14),
        samples("", "", "", restarts=[3, 3, 4]),
        samples("", "", "", exits=[9, 9, 13]),
        samples("", "", "", exits=[9, 9, 0]),
        samples("", *["no answer"] * 59, changing=range(1, 60)),
    ],
    ids=[
        "nothing seen yet",
        "well",
        "still starting",
        "a short trouble",
        "two short troubles",
        "a master that died once",
        "four workers",
        "a master that was started anew counts from 0",
        "a restart that somebody asked for",
    ],
)
def test_left_alone(seen):
    assert verdict(seen, start_seconds=60) == ""


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (samples(*["no answer"] * 62), "no answer"),
        (samples("", *["503"] * 15), "not well for 15 s: 503"),
        (samples("", *["no answer"] * 15, restarts=[3, 4], changing=range(1, 16)), "not well for 15 s: no answer"),
        (samples("", *["no answer"] * 60, changing=range(1, 61)), "not well for 60 s: no answer"),
        (samples("", *["no answer"] * 60, changing=range(1, 60)), "not well for 60 s: no answer"),
        (samples("", "", "", restarts=[3, 4, 5]), "its master died 2 times"),
        (samples("", "", "", exits=[9, 9, 14]), "5 workers ended unplanned"),
        (samples("", "", "", exits=[9, 0, 5]), "5 workers ended unplanned"),
    ],
)
def test_taken_back(seen, why):
    assert verdict(seen, start_seconds=60) == why


@pytest.mark.parametrize(
    ("seen", "over"),
    [
        ([], False),
        (samples(*[""] * 30), False),
        (samples(*[""] * 31), True),
        (samples("starts", *[""] * 30), False),
        (samples(*[""] * 25, *["503"] * 10), False),
        (samples(*[""] * 25, *["503"] * 10, ""), True),
    ],
    ids=["not begun", "a second early", "over", "the start does not count", "in a trouble", "after a trouble"],
)
def test_the_watch_ends_after_its_time_and_never_in_the_middle_of_a_trouble(seen, over):
    assert watch.is_over(seen, 30) is over


@pytest.fixture
def two(releases, build):
    for name, moment in (("old", 1), ("new", 2)):
        build(name)
        releases.write(name, LIVE, {"last": moment})
    releases.point("current", "new")


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only by waiting."""
    now = [0.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(watch.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def run(settings, releases):
    settings.watched.write_text('{"release": "new", "previous": "old"}')
    return watch.watch(settings, releases, settings.run / "lock")


def test_a_good_release_is_recorded_when_the_time_is_over(settings, releases, systemd, app, two, clock):
    assert run(settings, releases) == "new is good"
    assert clock[0] >= settings.watch_seconds
    assert not settings.watched.exists(), "the next boot watches nothing"
    assert releases.records()[-1]["result"] == "good"
    assert not any("restart" in words for words in systemd.asked)


def test_a_bad_release_is_taken_back_by_the_watch_itself(settings, releases, systemd, app, two, clock, monkeypatch):
    ask = host.ask

    def ill(address, path, seconds=1.0):
        current = releases.pointed("current")
        return (
            host.Answer(503, b'{"problem": "health status 503"}', "")
            if current == "new" and clock[0] > 3
            else ask(address, path)
        )

    monkeypatch.setattr(host, "ask", ill)
    assert run(settings, releases).startswith("new was taken back; old serves again (after the switch: not well for")
    assert not settings.watched.exists()
    assert releases.pointed("current") == "old"
    assert "health status 503" in releases.look("new").why
    assert sum("restart currents.service" in words for words in systemd.asked) == 1


def test_a_watch_ends_when_another_release_is_current(settings, releases, systemd, app, two, clock):
    releases.point("current", "old")
    assert run(settings, releases) == "new is not current any more"
    assert releases.look("new").state == "good"


@pytest.mark.parametrize("content", [None, "", "[]", '{"release": "new"}'])
def test_without_a_word_of_the_last_switch_there_is_nothing_to_watch(settings, releases, systemd, app, two, content):
    if content is not None:
        settings.watched.write_text(content)
    assert watch.watch(settings, releases, settings.run / "lock") == "there is nothing to watch"


def test_a_watch_that_a_reboot_ended_begins_anew_and_keeps_its_word_meanwhile(
    settings, releases, systemd, app, two, clock, monkeypatch
):
    def power_fails(seconds):
        raise KeyboardInterrupt

    with monkeypatch.context() as until_then:
        until_then.setattr(watch.time, "sleep", power_fails)
        with pytest.raises(KeyboardInterrupt):
            run(settings, releases)
    assert watch.watch(settings, releases, settings.run / "lock") == "new is good"
    assert clock[0] >= settings.watch_seconds, "for the whole time"


def test_a_watch_leaves_releases_alone_while_somebody_else_changes_them(
    settings, releases, systemd, app, two, clock, monkeypatch
):
    monkeypatch.setattr(host, "ask", lambda *_: host.Answer(503, b"{}", ""))
    settings = type(settings)(**{**vars(settings), "start_seconds": 2})
    monkeypatch.setattr(host, "LOCK_SECONDS", 0)
    held = []

    def lock(path):
        held.append(path)
        if len(held) == 3:
            releases.point("current", "old")
        raise host.ReleaseError("its releases are being changed right now")

    monkeypatch.setattr(host, "lock", lock)
    assert run(settings, releases) == "new is not current any more"
    assert releases.look("new").state == "good"

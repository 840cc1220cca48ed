from __future__ import annotations

import re
import sqlite3

import pytest
from currents import seed
from currents.personalization import parse_interests, rank
from currents.site import HERO_COUNT

SLUG = "will-solar-double-its-output"


def hero_of(client) -> str:
    found = re.findall(r'data-hero-id="(\d+)"', client.get("/").text)
    assert len(found) == 1
    return found[0]


def test_home_shows_the_hero_the_categories_and_no_outside_resources(client):
    page = client.get("/")
    assert page.status_code == 200
    assert all(f"/?category={name}" in page.text for name in seed.CATALOGUE)
    assert "http://" not in page.text
    assert "https://" not in page.text


def test_hero_changes_with_time_and_only_then(client, clock):
    clock.now = 1_770_800_000
    first = hero_of(client)
    clock.now += 9.9
    assert hero_of(client) == first
    clock.now += 0.2
    assert hero_of(client) != first


@pytest.mark.parametrize("seconds_between", [60, 120, 300, 600, 5400])
def test_a_watcher_at_a_round_interval_sees_the_hero_change(client, clock, seconds_between):
    first = hero_of(client)
    clock.now += seconds_between
    assert hero_of(client) != first


def test_all_heroes_get_their_turn_and_the_interface_agrees_with_the_page(client, clock):
    seen = set()
    for _ in range(HERO_COUNT):
        shown = hero_of(client)
        assert client.get("/api/hero").json["hero"]["id"] == int(shown)
        seen.add(shown)
        clock.now += 10
    assert len(seen) == HERO_COUNT


def test_hero_seconds_come_from_the_environment(make_app, clock):
    client = make_app(CURRENTS_HERO_SECONDS="3").test_client()
    clock.now = 1_770_800_001 - 1_770_800_001 % 3
    first = hero_of(client)
    clock.now += 3
    assert hero_of(client) != first


@pytest.mark.parametrize("value", ["0", "-1", "ten", "1.5"])
def test_hero_seconds_that_cannot_be_used_are_refused_by_name(make_app, value):
    with pytest.raises(ValueError, match="CURRENTS_HERO_SECONDS"):
        make_app(CURRENTS_HERO_SECONDS=value)


def test_there_are_more_than_two_hundred_markets_each_with_its_own_slug(client):
    answer = client.get("/api/markets").json
    assert answer["count"] == len(answer["markets"]) == len({m["slug"] for m in answer["markets"]}) > 200


def test_markets_are_the_same_at_every_first_start():
    assert seed.markets() == seed.markets()


def test_markets_of_one_category(client):
    markets = client.get("/api/markets?category=energy").json["markets"]
    assert {market["category"] for market in markets} == {"energy"}
    assert client.get("/?category=energy").status_code == 200
    assert client.get("/?category=nosuch").status_code == 404


def test_vote_persists_and_is_seen_by_another_process(client, make_app, database):
    first = client.post(f"/api/markets/{SLUG}/vote", json={"choice": "no", "user": "ann"})
    second = client.post(f"/api/markets/{SLUG}/vote", data={"choice": "yes"})
    assert (first.status_code, second.status_code) == (201, 201)
    assert second.json["id"] > first.json["id"]
    assert make_app().test_client().get(f"/api/markets/{SLUG}").json["votes"] == {"yes": 1, "no": 1}
    with sqlite3.connect(database) as outside:
        assert outside.execute("SELECT id, choice, voter FROM votes").fetchall() == [
            (first.json["id"], "no", "ann"),
            (second.json["id"], "yes", ""),
        ]


@pytest.mark.parametrize("body", [{"choice": "maybe"}, {"choice": ["yes"]}, {"user": 7}, {"user": "x" * 65}, [], "x"])
def test_a_vote_that_makes_no_sense_is_refused_and_stores_nothing(client, body):
    assert client.post(f"/api/markets/{SLUG}/vote", json=body).status_code == 400
    assert client.get(f"/api/markets/{SLUG}").json["votes"] == {"yes": 0, "no": 0}


def test_a_vote_for_an_unknown_market_is_not_found_and_leaves_no_lock(client):
    assert client.post("/api/markets/nosuch/vote").status_code == 404
    assert client.post(f"/api/markets/{SLUG}/vote").status_code == 201


def test_personalization_considers_all_markets_and_puts_the_interests_first(client):
    answer = client.get("/personalized?interests=space, Energy&user=ann").json
    assert answer["considered"] == len(seed.markets())
    assert answer["interests"] == ["space", "energy"]
    assert {market["category"] for market in answer["markets"]} == {"space", "energy"}


def test_personalization_learns_from_the_votes_of_that_user_only(client):
    for _ in range(4):
        client.post("/api/markets/will-a-qualifier-win-the-grass-season/vote", json={"user": "ann"})
    assert client.get("/personalized?user=ann").json["markets"][0]["category"] == "tennis"
    nobody, bob = (client.get(f"/personalized?user={user}").json["markets"] for user in ("", "bob"))
    assert nobody == bob


def test_ranking_is_stable_and_limited():
    twins = [{"id": n, "tags": ["a"], "category": "a", "probability": 50, "volume": 10} for n in (2, 1, 3)]
    assert [market["id"] for market in rank(twins, ["a"], {}, 2)] == [1, 2]


def test_interests_are_cleaned():
    assert parse_interests(" A, b,,a ,") == ("a", "b")

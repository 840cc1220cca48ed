"""The pages and the JSON interface."""

from __future__ import annotations

import sqlite3
from typing import Any

from flask import Blueprint, Response, abort, current_app, jsonify, render_template, request

from currents import db, personalization

# A prime number of heroes: a watcher that comes by at any round interval still sees them change.
HERO_COUNT = 13
HOME_MARKETS = 12
PERSONALIZED_LIMIT = 20
VOTER_MAX_LENGTH = 64

blueprint = Blueprint("site", __name__)


@blueprint.get("/")
def home() -> str:
    """Show the hero, the categories, and markets: the busiest, or those of ``?category=``."""
    connection = db.connection()
    categories = connection.execute(
        "SELECT category AS name, count(*) AS markets FROM markets GROUP BY category ORDER BY category"
    ).fetchall()
    category = request.args.get("category", "")
    if category and category not in {row["name"] for row in categories}:
        abort(404)
    if category:
        rows = connection.execute("SELECT * FROM markets WHERE category = ? ORDER BY volume DESC", (category,))
    else:
        rows = connection.execute("SELECT * FROM markets ORDER BY volume DESC LIMIT ?", (HOME_MARKETS,))
    return render_template(
        "home.html",
        hero=current_hero(connection),
        hero_seconds=current_app.config["HERO_SECONDS"],
        categories=categories,
        category=category,
        markets=[as_market(row) for row in rows],
    )


@blueprint.get("/api/hero")
def api_hero() -> Response:
    """Return the market that is the hero now."""
    answer = jsonify(hero=current_hero(db.connection()), rotation_seconds=current_app.config["HERO_SECONDS"])
    answer.headers["Cache-Control"] = "no-store"
    return answer


@blueprint.get("/api/markets")
def api_markets() -> Response:
    """Return all markets, or those of ``?category=``."""
    category = request.args.get("category")
    rows = db.connection().execute("SELECT * FROM markets WHERE ?1 IS NULL OR category = ?1 ORDER BY id", (category,))
    markets = [as_market(row) for row in rows]
    return jsonify(count=len(markets), markets=markets)


@blueprint.get("/api/markets/<slug>")
def api_market(slug: str) -> Response:
    """Return one market with its votes counted."""
    connection = db.connection()
    market = find_market(connection, slug)
    votes = {"yes": 0, "no": 0}
    counted = connection.execute(
        "SELECT choice, count(*) AS n FROM votes WHERE market_id = ? GROUP BY choice", (market["id"],)
    )
    votes.update({row["choice"]: row["n"] for row in counted})
    return jsonify(market=market, votes=votes)


@blueprint.post("/api/markets/<slug>/vote")
def api_vote(slug: str) -> tuple[Response, int]:
    """Store a vote and return its number. The number is only sent once the vote is on disk.

    ``choice`` (yes or no, default yes) and ``user`` come as JSON or as form fields.
    """
    sent = request.get_json() if request.is_json else request.form
    if not hasattr(sent, "get"):
        abort(400, "Send an object with the fields choice and user.")
    choice, voter = sent.get("choice", "yes"), sent.get("user", "")
    if choice not in ("yes", "no"):
        abort(400, "choice must be yes or no.")
    if not isinstance(voter, str) or len(voter) > VOTER_MAX_LENGTH:
        abort(400, f"user must be a text of at most {VOTER_MAX_LENGTH} characters.")
    connection = db.connection()
    with db.write(connection):
        market = find_market(connection, slug)
        vote = connection.execute(
            "INSERT INTO votes (market_id, choice, voter, created_at) VALUES (?, ?, ?, ?)",
            (market["id"], choice, voter, current_app.config["CLOCK"]()),
        ).lastrowid
    return jsonify(id=vote, market=slug, choice=choice), 201


@blueprint.get("/personalized")
def personalized() -> Response:
    """Return the markets that fit ``?interests=a,b`` and the past votes of ``?user=`` best."""
    interests = personalization.parse_interests(request.args.get("interests", ""))
    user = request.args.get("user", "")
    connection = db.connection()
    habits = connection.execute(
        "SELECT category, count(*) AS n FROM votes JOIN markets ON markets.id = votes.market_id"
        " WHERE voter = ? AND voter <> '' GROUP BY category",
        (user,),
    )
    votes_by_category = {row["category"]: row["n"] for row in habits}
    markets = [as_market(row) for row in connection.execute("SELECT * FROM markets ORDER BY id")]
    return jsonify(
        user=user,
        interests=interests,
        considered=len(markets),
        markets=personalization.rank(markets, interests, votes_by_category, PERSONALIZED_LIMIT),
    )


def hero_index(now: float, rotation_seconds: int, count: int) -> int:
    """Return which of ``count`` heroes is on at ``now`` (unix time, seconds)."""
    return int(now // rotation_seconds) % count


def current_hero(connection: sqlite3.Connection) -> dict[str, Any]:
    """Return the hero of this moment: the busiest markets take turns. Every worker picks the same one."""
    rows = connection.execute("SELECT * FROM markets ORDER BY volume DESC, id LIMIT ?", (HERO_COUNT,)).fetchall()
    now = current_app.config["CLOCK"]()
    return as_market(rows[hero_index(now, current_app.config["HERO_SECONDS"], len(rows))])


def find_market(connection: sqlite3.Connection, slug: str) -> dict[str, Any]:
    """Return the market with this slug, or end the request with 404."""
    row = connection.execute("SELECT * FROM markets WHERE slug = ?", (slug,)).fetchone()
    if row is None:
        abort(404)
    return as_market(row)


def as_market(row: sqlite3.Row) -> dict[str, Any]:
    """Return a row of the table ``markets`` as the interface shows it: the tags are a list."""
    return {**dict(row), "tags": row["tags"].split(",")}

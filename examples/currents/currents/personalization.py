"""What a visitor sees first: every market, scored against the visitor's interests.

It looks at all the markets for each request, as the site always did. At a few hundred that is milliseconds; it is
the first place to look when the site grows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

INTEREST_POINTS = 3.0
HABIT_POINTS = 0.5
HABIT_LIMIT = 4
DOUBT_POINTS = 1.0


def parse_interests(text: str) -> tuple[str, ...]:
    """Split ``"a, b"`` into unique lower-case words, in their order."""
    words = (word.strip().lower() for word in text.split(","))
    return tuple(dict.fromkeys(word for word in words if word))


def score(market: Mapping[str, Any], interests: Iterable[str], votes_by_category: Mapping[str, int]) -> float:
    """Return how well a market fits a visitor; more is better.

    Args:
        market: A row of the table ``markets`` with its tags as a list.
        interests: Lower-case words; each that is a tag of the market counts.
        votes_by_category: How often the visitor has voted in each category.
    """
    matches = len(set(interests) & set(market["tags"]))
    habit = min(votes_by_category.get(market["category"], 0), HABIT_LIMIT)
    doubt = 1 - abs(market["probability"] - 50) / 50
    popularity = math.log10(1 + market["volume"]) / 6
    return float(matches * INTEREST_POINTS + habit * HABIT_POINTS + doubt * DOUBT_POINTS + popularity)


def rank(
    markets: Iterable[Mapping[str, Any]],
    interests: Sequence[str],
    votes_by_category: Mapping[str, int],
    limit: int,
) -> list[dict[str, Any]]:
    """Return the best markets with their scores, best first; equal scores keep the order of their ids."""
    scored = [{**market, "score": round(score(market, interests, votes_by_category), 3)} for market in markets]
    return sorted(scored, key=lambda market: (-market["score"], market["id"]))[:limit]

"""The markets the site starts with: the same ones on every host, so that tests can name them."""

from __future__ import annotations

import datetime
import random
import re
from typing import Any

SEED = 20260211
FIRST_CLOSING_DAY = datetime.date(2027, 1, 1)

# category: (subjects, questions about each of them)
CATALOGUE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "climate": (
        ("the Arctic", "the North Sea", "the Sahara", "the Alps", "the Amazon"),
        ("break its heat record", "see a wetter year", "lose a named storm season", "reach its ice target"),
    ),
    "energy": (
        ("solar", "offshore wind", "nuclear", "hydrogen", "geothermal"),
        ("double its output", "fall in price", "lead new capacity", "win the largest tender"),
    ),
    "economy": (
        ("inflation", "the euro", "the yen", "unemployment", "the oil price"),
        ("end the year lower", "hit a ten-year high", "surprise the central bank", "stay in its range"),
    ),
    "elections": (
        ("the incumbent", "the coalition", "the green list", "the youngest candidate", "the opposition"),
        ("win the spring vote", "lead the first poll", "call a recount", "form the cabinet"),
    ),
    "football": (
        ("Lisbon", "Leeds", "Napoli", "Ajax", "Bilbao"),
        ("win the league", "reach the cup final", "change coach", "score a hundred goals"),
    ),
    "tennis": (
        ("the top seed", "a qualifier", "the defending champion", "a teenager", "a wild card"),
        ("win the grass season", "reach the last four", "win in five sets", "retire hurt"),
    ),
    "science": (
        ("the neutrino lab", "the fusion ring", "the deep-sea probe", "the gene atlas", "the quantum team"),
        ("publish its result", "repeat its finding", "double its budget", "win the medal"),
    ),
    "space": (
        ("the lunar lander", "the Mars orbiter", "the comet probe", "the new station", "the heavy rocket"),
        ("launch on time", "return a sample", "set a distance record", "carry a crew"),
    ),
    "technology": (
        ("the open chip", "the folding phone", "the home robot", "the silent drone", "the paper battery"),
        ("ship this year", "sell a million", "drop below 300 dollars", "be recalled"),
    ),
    "health": (
        ("the malaria vaccine", "the flu season", "the sleep study", "the heart pill", "the allergy test"),
        ("be approved", "beat the forecast", "reach every region", "make the front page"),
    ),
    "film": (
        ("the silent western", "the lighthouse drama", "the cartoon sequel", "the jazz biopic", "the debut"),
        ("win best picture", "open at number one", "run three hours", "be remade"),
    ),
    "oceans": (
        ("the reef survey", "the tide farm", "the whale count", "the plastic treaty", "the polar convoy"),
        ("finish early", "beat its goal", "gain ten members", "be extended"),
    ),
}


def markets() -> list[dict[str, Any]]:
    """Return all the markets, each a row for the table ``markets`` without its id."""
    chance = random.Random(SEED)
    rows: list[dict[str, Any]] = []
    for category, (subjects, questions) in CATALOGUE.items():
        for subject in subjects:
            for question in questions:
                title = f"Will {subject} {question}?"
                rows.append(
                    {
                        "slug": slug(title),
                        "title": title,
                        "category": category,
                        "tags": ",".join([category, *slug(subject).split("-")]),
                        "probability": chance.randint(3, 97),
                        "volume": chance.randint(1_000, 900_000),
                        "closes_on": (FIRST_CLOSING_DAY + datetime.timedelta(days=chance.randint(0, 700))).isoformat(),
                    }
                )
    return rows


def slug(text: str) -> str:
    """Return the text as it stands in an address: lower-case words with hyphens between."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")

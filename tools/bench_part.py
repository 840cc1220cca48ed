"""What every part of ``make bench`` offers, and what the parts share."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).resolve().parents[1]
#: Results are artefacts: git ignores them.
RESULTS = ROOT / ".cache" / "results"

#: What a part measured, as it is kept in .cache/results/bench.json: plain JSON.
Result = Mapping[str, Any]


class BenchError(Exception):
    """The measurement cannot be made; the message says what to do."""


class Part(Protocol):
    """A module that measures one thing."""

    TITLE: str
    """Its heading on the page."""

    def measure(self) -> dict[str, Any]:
        """Measure; return what is kept, with `machine`, in words, for the page. Raises BenchError."""

    def page(self, result: Result) -> list[str]:
        """Return the lines of its section in Markdown, without the heading."""

    def failures(self, result: Result) -> list[str]:
        """Return what is not as good as it was promised to be, one line each."""


def progress(part: str, text: str) -> None:
    """Say what a part measures now."""
    print(f"bench: {part}: {text}", file=sys.stderr, flush=True)


def figure(value: float | None, digits: int = 1) -> str:
    """Return a number for a table, a dash for none."""
    return "-" if value is None else f"{value:.{digits}f}"

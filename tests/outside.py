"""What the sentences of the scenarios share besides fixtures."""

from __future__ import annotations

from tools.load import Ledger


def lost(ledger: Ledger) -> dict[str, int]:
    """Return how many requests of a ledger failed, by outcome."""
    return {outcome: count for outcome, count in ledger.summary().outcomes.items() if outcome != "ok" and count}

"""What a switch of releases says to a run's report, made from the answer of the program that did it. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def summary_of(action: str, said: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the lines for the table at the end of the run."""
    if action == "list" or not said.get("changed"):
        return []
    words = str(said.get("text", ""))
    rows = [("Release", f"{words} ({said['seconds']} s)" if "seconds" in said else words)]
    if said.get("watched_seconds"):
        rows.append(("Watch", f"for {said['watched_seconds']:.0f} s; taken back by itself if it goes bad"))
    return rows


def serves(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return which release the host has, for the table of hosts; with the reason when it is not the one asked for."""
    if "current" not in said:
        return {}
    note = ""
    if said.get("failed"):
        note = (str(said.get("msg", "")).splitlines() or [""])[0]
    elif said.get("pending"):
        note = f"{said.get('release')} is proven, and was not switched to"
    return {"serves": {"release": str(said["current"] or "none"), "note": note}}

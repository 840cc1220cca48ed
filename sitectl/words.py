"""Numbers for people."""

from __future__ import annotations

from collections.abc import Mapping


def memory_words(memory: dict[str, int | None]) -> str:
    """Return the service's memory for people; a limit that is not a number is no limit."""
    if memory["now"] is None:
        return "unknown"
    absent = {"now": "unknown", "peak": "unknown", "high": "none", "max": "none"}
    words = {key: absent[key] if (count := memory[key]) is None else size(count) for key in absent}
    return ", ".join(f"{key} {text}" for key, text in words.items())


def size(count: int) -> str:
    """Return a number of bytes for people: 512M."""
    for unit, factor in (("G", 2**30), ("M", 2**20), ("K", 2**10)):
        if count >= factor:
            return f"{count / factor:.4g}{unit}"
    return str(count)


def duration(seconds: int | None) -> str:
    """Return a time span for people in its two largest units: 3 h 12 min."""
    left = seconds or 0
    parts = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if left >= length:
            parts.append(f"{left // length} {unit}")
            left %= length
    return " ".join(parts[:2]) or "0 s"


def counts(numbers: Mapping[str, int]) -> str:
    """Return what was counted, without what never happened: hang 1, crash 2."""
    return ", ".join(f"{name} {count}" for name, count in numbers.items() if count) or "none"

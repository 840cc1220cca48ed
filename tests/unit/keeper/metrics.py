"""Reads Prometheus' text format as strictly as it is written down (version 0.0.4), and more."""

from __future__ import annotations

import re

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="[^"\\\n]*"'
SAMPLE = re.compile(rf"({NAME})(\{{{LABEL}(?:,{LABEL})*\}})? (-?[0-9]+(?:\.[0-9]+)?)")


def parse(text: str) -> dict[str, float]:
    """Return value by series.

    Raises:
        ValueError: a sample without its HELP and TYPE right before it, a series or a metric twice, a counter whose name
            does not end in _total or that is negative, or a line that is none of these.
    """
    found: dict[str, float] = {}
    kinds: dict[str, str] = {}
    helped = current = ""
    if not text.endswith("\n"):
        raise ValueError("the last line does not end")
    for line in text.splitlines():
        if words := re.fullmatch(rf"# HELP ({NAME}) (\S.*)", line):
            helped = words[1]
            if helped in kinds:
                raise ValueError(f"{helped} twice")
        elif words := re.fullmatch(rf"# TYPE ({NAME}) (counter|gauge)", line):
            current, kinds[words[1]] = words[1], words[2]
            if current != helped:
                raise ValueError(f"{current} has no HELP before its TYPE")
        elif words := SAMPLE.fullmatch(line):
            series, value = words[1] + (words[2] or ""), float(words[3])
            if words[1] != current:
                raise ValueError(f"{line!r} does not follow its TYPE")
            if series in found:
                raise ValueError(f"{series} twice")
            if (kinds[current] == "counter") != current.endswith("_total") or (
                current.endswith("_total") and value < 0
            ):
                raise ValueError(f"{line!r} is no {kinds[current]}")
            found[series] = value
        else:
            raise ValueError(f"no line of the format: {line!r}")
    return found

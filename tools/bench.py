"""``make bench``: measures what is promised in figures; ``ARGS=PART`` measures only that part.

The results are kept in ``.cache/results/bench.json``, each part with its own date, and shown in ``bench.md`` beside it;
docs/measured.md has the figures that matter. A new part is a module with what `tools.bench_part.Part` asks for, and a
line in `PARTS`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tools import bench_deploy, bench_hosts, bench_overhead, bench_recovery
from tools.bench_part import RESULTS, BenchError, Part

#: In the order in which they are measured and shown.
PARTS: dict[str, Part] = {
    "overhead": bench_overhead,
    "recovery": bench_recovery,
    "deploy": bench_deploy,
    "hosts": bench_hosts,
}
KEPT = RESULTS / "bench.json"
PAGE = RESULTS / "bench.md"
HEAD = """# What was measured

`make bench` measures all of this again and writes this page; `make bench ARGS=recovery` measures one part and leaves
the others as they were. The figures are in `bench.json`.
"""


def merged(kept: Mapping[str, Any], name: str, result: Mapping[str, Any], date: str) -> dict[str, Any]:
    """Return the kept results with a part's new one; the other parts stay as they are, in the order of `PARTS`."""
    new = {**kept, name: {"command": f"make bench ARGS={name}", "date": date, **result}}
    return {part: new[part] for part in PARTS if part in new}


def render(kept: Mapping[str, Any]) -> str:
    """Return the page of all results that are kept."""
    lines = [HEAD]
    for name, part in PARTS.items():
        lines += [f"## {part.TITLE}", ""]
        if not (result := kept.get(name)):
            lines += [f"Not measured yet: `make bench ARGS={name}`.", ""]
            continue
        bad = part.failures(result)
        lines += [f"`{result['command']}`, {result['date']}, {result['machine']}.", "", *part.page(result), ""]
        lines += [*(f"- **Not as promised**: {one}" for one in bad), *([""] if bad else [])]
    return "\n".join(lines).rstrip() + "\n"


def main(argv: Sequence[str]) -> int:
    """Measure, keep, show; 1 when something is not as promised, 2 when it could not be measured."""
    parser = argparse.ArgumentParser(prog="make bench", description="Measure what is promised in figures.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; none: all of them")
    names = parser.parse_args(argv).parts or list(PARTS)
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    failures = []
    for name in names:
        try:
            result = PARTS[name].measure()
        except BenchError as error:
            print(f"bench: {name}: {error}", file=sys.stderr)
            return 2
        kept = merged(kept, name, result, datetime.date.today().isoformat())
        KEPT.parent.mkdir(parents=True, exist_ok=True)
        KEPT.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
        PAGE.write_text(render(kept), encoding="utf-8")
        print("\n".join(["", PARTS[name].TITLE, "", *PARTS[name].page(kept[name])]))
        failures += [f"{name}: {one}" for one in PARTS[name].failures(kept[name])]
    print("\n".join(f"bench: NOT AS PROMISED: {one}" for one in failures) or "bench: all as promised that was judged")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The bench's part ``overhead``: what the guards cost, measured as a ratio in one run on one computer.

Two servers side by side with the same workers, threads and a file for the access log: Gunicorn as it comes, and
Gunicorn with the configuration of the role ``app``. Short rounds of ``wrk`` on a hello-world route alternate between
them, so that whatever else the computer does hits both.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tools.bench_part import ROOT, BenchError, Result
from tools.markdown import table as markdown

TITLE = "What the guards cost"
FILES = ROOT / "roles" / "app" / "files"
#: What the issue of the guards allowed them to cost.
LEAST_RATIO = 0.97
ROUNDS = 10
WORKERS, THREADS, CONNECTIONS = 2, 4, 8
ROUND_SECONDS = 2
START_SECONDS = 30
APP = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"hello"]
"""
PLAIN = """
bind, wsgi_app, worker_class = "127.0.0.1:{port}", "app:app", "gthread"
workers, threads, accesslog = {workers}, {threads}, "{directory}/access.log"
"""


@dataclass(frozen=True)
class Rate:
    """What one server did in one round."""

    requests_a_second: float
    processor_microseconds: float
    """Of all its workers, for each request."""


@dataclass(frozen=True)
class Comparison:
    """The medians of all rounds, and their ratios: above 1 the guarded server is the better one."""

    connections: str
    plain: Rate
    guarded: Rate
    throughput_ratio: float
    processor_ratio: float


def parse_wrk(output: str) -> tuple[int, float]:
    """Return how many requests wrk made and how many a second.

    Raises:
        BenchError: some failed, or the output is not wrk's.
    """
    requests, rate = re.search(r"(\d+) requests in", output), re.search(r"Requests/sec:\s+([\d.]+)", output)
    if not requests or not rate or "Non-2xx" in output or "Socket errors" in output:
        raise BenchError(f"wrk did not get only good answers:\n{output}")
    return int(requests[1]), float(rate[1])


def compare(connections: str, plain: Sequence[Rate], guarded: Sequence[Rate]) -> Comparison:
    """Compare the medians of two servers' rounds."""

    def median(rates: Sequence[Rate]) -> Rate:
        return Rate(
            statistics.median(rate.requests_a_second for rate in rates),
            statistics.median(rate.processor_microseconds for rate in rates),
        )

    one, other = median(plain), median(guarded)
    return Comparison(
        connections,
        one,
        other,
        round(other.requests_a_second / one.requests_a_second, 3),
        round(one.processor_microseconds / other.processor_microseconds, 3),
    )


def free_port() -> int:
    """Return a port that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def guarded_settings(directory: Path, port: int) -> dict[str, object]:
    """Return what the role writes to ``gunicorn.json``, with the directories of this measurement."""
    return {
        "app_module": "app:app",
        "bind": f"127.0.0.1:{port}",
        "workers": WORKERS,
        "threads": THREADS,
        "timeout_seconds": 10,
        "boot_timeout_seconds": 60,
        "graceful_timeout_seconds": 30,
        "hang_seconds": 8,
        "request_limit_seconds": 300,
        "max_requests": 0,
        "max_requests_jitter": 0,
        "health_path": "/",
        "log_dir": str(directory),
        "runtime_dir": str(directory),
        "release_file": str(directory / "release.json"),
        "memory_high_bytes": 800 << 20,
        "memory_max_bytes": 1 << 30,
        "maintenance_file": str(directory / "maintenance.json"),
    }


@contextlib.contextmanager
def server(directory: Path, guarded: bool) -> Iterator[tuple[int, int]]:
    """Run one of the two servers; give its process and its port. It is gone at the end."""
    port = free_port()
    directory.mkdir()
    (directory / "app.py").write_text(APP, encoding="utf-8")
    config = directory / "gunicorn.conf.py"
    if guarded:
        shutil.copytree(FILES / "sitekeeper", directory / "sitekeeper")
        shutil.copy(FILES / config.name, config)
        (directory / "gunicorn.json").write_text(json.dumps(guarded_settings(directory, port)), encoding="utf-8")
    else:
        config.write_text(PLAIN.format(port=port, workers=WORKERS, threads=THREADS, directory=directory))
    program = Path(sys.executable).with_name("gunicorn")
    with subprocess.Popen(
        [program, "--config", config], cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            wait(port)
            yield process.pid, port
        finally:
            process.terminate()


def wait(port: int) -> None:
    """Wait until the server answers."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise BenchError(f"Gunicorn does not answer on port {port}: {error}") from error
            time.sleep(0.1)


def processor_seconds(master: int) -> float:
    """Return the processor time of a master's workers."""
    children = Path(f"/proc/{master}/task/{master}/children").read_text(encoding="ascii").split()
    stats = [Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split() for pid in children]
    return sum(int(fields[11]) + int(fields[12]) for fields in stats) / os.sysconf("SC_CLK_TCK")


def one_round(master: int, port: int, keep_alive: bool) -> Rate:
    """Load one server for a moment."""
    words = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{ROUND_SECONDS}", f"http://127.0.0.1:{port}/"]
    before = processor_seconds(master)
    done = subprocess.run(
        words if keep_alive else [*words, "-H", "Connection: close"], capture_output=True, text=True, check=True
    )
    requests, rate = parse_wrk(done.stdout)
    return Rate(rate, (processor_seconds(master) - before) / requests * 1e6)


def compared(rounds: int) -> list[Comparison]:
    """Measure both servers in turns."""
    found = []
    with (
        tempfile.TemporaryDirectory() as top,
        server(Path(top, "plain"), False) as plain,
        server(Path(top, "guarded"), True) as guarded,
    ):
        for keep_alive in (True, False):
            name = "kept alive" if keep_alive else "new"
            rates: tuple[list[Rate], list[Rate]] = ([], [])
            for number in range(rounds):
                print(f"bench: {name} connections, round {number + 1} of {rounds}", file=sys.stderr)
                for one, (master, port) in zip(rates, (plain, guarded), strict=True):
                    one.append(one_round(master, port, keep_alive))
            found.append(compare(name, *rates))
    return found


def measure() -> dict[str, Any]:
    """Measure; see `tools.bench_part.Part`."""
    return {
        "machine": f"{os.cpu_count()} cores, no machine emulated",
        "least_ratio": LEAST_RATIO,
        "comparisons": [asdict(one) for one in compared(ROUNDS)],
    }


def page(result: Result) -> list[str]:
    """Return the section; see `tools.bench_part.Part`."""
    rows = []
    for one in result["comparisons"]:
        for name in ("plain", "guarded"):
            ratios = [f"{one[ratio]:.3f}" for ratio in ("throughput_ratio", "processor_ratio")]
            rate = one[name]
            rows.append(
                [
                    *(one["connections"], name),
                    *(f"{rate['requests_a_second']:.0f}", f"{rate['processor_microseconds']:.0f}"),
                    *(ratios if name == "guarded" else ("", "")),
                ]
            )
    return [
        "A hello-world route, plain Gunicorn against the same with the guards, both with an access log,",
        f"{WORKERS} workers with {THREADS} threads. Above 1 the guarded one is better; the throughput's has to be",
        f"{result['least_ratio']} or more.",
        "",
        *markdown(("connections", "", "requests/s", "CPU us/request", "ratio", "CPU ratio"), rows),
    ]


def failures(result: Result) -> list[str]:
    """Return the ratios that are too low; see `tools.bench_part.Part`."""
    return [
        f"with {one['connections']} connections {one['throughput_ratio']:.3f} of the throughput of plain Gunicorn, "
        f"at least {result['least_ratio']} is asked for"
        for one in result["comparisons"]
        if one["throughput_ratio"] < result["least_ratio"]
    ]

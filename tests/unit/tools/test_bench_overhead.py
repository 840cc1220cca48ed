"""What the bench makes of two servers' rates, and that it measures what the role really installs."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from tests.unit.rendering import render
from tools.bench_overhead import Rate, compare, failures, guarded_settings, page, parse_wrk
from tools.bench_part import BenchError

GOOD = """Running 2s test @ http://127.0.0.1:1/
  2 threads and 8 connections
  8800 requests in 2.00s, 1.55MB read
Requests/sec:   4399.10
Transfer/sec:    793.11KB
"""


def test_wrk_is_read():
    assert parse_wrk(GOOD) == (8800, 4399.1)


@pytest.mark.parametrize(
    "output", ["", GOOD + "  Non-2xx or 3xx responses: 3\n", GOOD + "  Socket errors: connect 0, read 2\n"]
)
def test_bad_answers_are_no_measurement(output):
    with pytest.raises(BenchError):
        parse_wrk(output)


def test_a_ratio_above_one_speaks_for_the_guarded_server():
    one = compare("new", [Rate(100, 200), Rate(300, 400), Rate(200, 300)], [Rate(220, 150)])
    assert (one.plain, one.throughput_ratio, one.processor_ratio) == (Rate(200, 300), 1.1, 2.0)


def result(guarded):
    return {"least_ratio": 0.97, "comparisons": [asdict(compare("new", [Rate(100, 200)], [Rate(guarded, 200)]))]}


def test_the_page_names_both_servers():
    assert page(result(97))[-2:] == [
        "| new | plain | 100 | 200 |  |  |",
        "| new | guarded | 97 | 200 | 0.970 | 1.000 |",
    ]


def test_a_ratio_below_the_least_is_a_failure():
    assert failures(result(97)) == []
    assert "0.960" in failures(result(96))[0]


def test_the_measured_settings_are_those_of_the_role(tmp_path):
    assert set(guarded_settings(tmp_path, 1)) == set(json.loads(render("app", "gunicorn.json.j2", wired=True)))

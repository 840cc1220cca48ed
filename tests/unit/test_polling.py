"""A question that costs a machine time is asked the less often."""

from __future__ import annotations

import pytest

from tests import polling


@pytest.mark.parametrize(("took", "pause"), [(0.0, 0.1), (0.01, 0.1), (0.5, 1.0), (30.0, 2.0)])
def test_answering_takes_at_most_a_third_of_the_time_and_nobody_waits_long(monkeypatch, took, pause):
    pauses = []
    monkeypatch.setattr(polling.time, "monotonic", lambda: 100.0 + took)
    monkeypatch.setattr(polling.time, "sleep", pauses.append)
    polling.pause_after(100.0)
    assert pauses == [pytest.approx(pause)]

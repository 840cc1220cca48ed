"""How long tests wait: between two probes of a poll, and for a process at most."""

from __future__ import annotations

import time

LEAST_SECONDS = 0.1
MOST_SECONDS = 2.0
#: How long a process or a condition may take before a test gives up. No promise of the product: only what hangs takes
#: so long, also on a busy computer. Shorter than the time limit of a test, so that the test's own message is shown.
PATIENCE_SECONDS = 120.0


def pause_after(asked: float) -> None:
    """Wait before the next question.

    Most questions to a machine cost it a login and a sudo. An emulated processor that is asked all the time has nothing
    left for what is waited for: at most a third of the time it answers.

    Args:
        asked: when the last question was asked, by `time.monotonic`.
    """
    time.sleep(min(max(LEAST_SECONDS, 2 * (time.monotonic() - asked)), MOST_SECONDS))

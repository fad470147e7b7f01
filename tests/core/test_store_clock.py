"""The store's clock: time in which the store did not run is nobody's silence."""

import pytest

from pangu_core.rendezvous.store import BLINK_SECONDS, Clock


def test_it_runs_while_it_is_looked_at_and_stands_still_while_the_store_is_stopped():
    times = iter([100.0, 100.1, 100.3, 900.0, 900.1])
    clock = Clock(lambda: next(times))
    assert clock.now() == pytest.approx(0.1)
    assert clock.now() == pytest.approx(0.3)
    assert clock.now() == pytest.approx(0.3 + BLINK_SECONDS)
    assert clock.now() == pytest.approx(0.4 + BLINK_SECONDS)

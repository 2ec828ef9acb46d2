"""Bursts of events, delivered up to three times in any order while every service throttles: nothing is lost, nothing is
doubled, and everybody ends as Stripe says. `make bench` plays ten times as many."""

from pathlib import Path

from moto.stepfunctions.parser.utils import TMP_THREADS

from tests.bench import load
from tests.e2e.conftest import Gateway


def test_bursts_under_throttling_lose_nothing_double_nothing_and_converge(tmp_path: Path) -> None:
    with Gateway(tmp_path, **load.PARAMETERS) as gateway:
        outcome = load.play(gateway, 500)
        assert gateway.stack.denied == []
    assert (outcome.lost, outcome.doubled, outcome.astray) == ([], [], [])
    # It was a load: as much as said, never more at a time, and refusals of every service.
    assert outcome.events >= 500
    assert outcome.deliveries > outcome.events
    assert load.OPEN // 2 < outcome.most_open <= load.OPEN
    assert outcome.users > 20
    assert outcome.throttled.keys() == {*load.STORMS, "stripe"}
    assert outcome.refused > 0
    assert outcome.failed > 0
    assert outcome.rounds > 0
    assert TMP_THREADS == []  # or the local stack ends at some 4,000 events

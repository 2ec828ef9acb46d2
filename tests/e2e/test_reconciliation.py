"""A reconciliation of a thousand customers, on the local stack: whatever has drifted is found and mended, and nobody
else is touched. `make bench` plays it with twenty thousand."""

from pathlib import Path

from tests.bench import reconciliation
from tests.e2e.conftest import Gateway


def test_a_thousand_customers_are_brought_in_line_and_nobody_else_is_touched(tmp_path: Path) -> None:
    with Gateway(tmp_path, **reconciliation.PARAMETERS) as gateway:
        outcome = reconciliation.play(gateway, 1_000)
        assert gateway.stack.denied == []
    assert outcome.in_line == 0
    assert outcome.dry_touched == []
    assert outcome.left_over == []
    assert outcome.touched_besides == []
    assert outcome.found_after == 0
    # Each kind was there, and counted as what it is; a missed event has its run before anybody looks for drift.
    drifted = dict(outcome.drifted)
    assert min(drifted.values()) >= 10
    assert outcome.missed >= drifted.pop("missed_event")
    assert outcome.found == drifted
    assert outcome.runs >= sum(drifted.values())

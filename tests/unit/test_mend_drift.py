"""mend_drift.handler: everybody who differs gets one run, which decides anew."""

import json
from typing import Any

import pytest

from gateway.differences import Difference
from gateway.drift import WRITES, Kind
from gateway.errors import LedgerThrottled, StartThrottled
from gateway.ledger import ATTEMPT_SECONDS
from tests.unit.operators import refusal
from tests.unit.searches import DAY, PLAN, SEARCH, Searches
from tests.unit.steps import NOW, Json

LONG = 300


@pytest.fixture(autouse=True)
def _one_call(searches: Searches, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of this task ends after its time alone: it has no pages."""
    monkeypatch.setattr("gateway.searches.TURN_SECONDS", LONG)


def differs(
    searches: Searches, party: str | None, sub: str | None = None, kind: Kind = "wrong_limit", **more: Any
) -> None:
    found = Difference(kind, party, sub, **{"disables": False, **more})
    searches.ledger.add_drift(SEARCH, found.subject, found.row(), NOW + DAY)


def mend(searches: Searches, **replaced: Any) -> Json:
    """The last answer."""
    last: Json = searches.ask_all("MendDrift", "mended", **replaced)[-1]
    return last


class TestARun:
    def test_is_for_everybody_who_differs(self, searches: Searches) -> None:
        differs(searches, "cus_1", "u-1")
        differs(searches, "cus_2")
        differs(searches, "cs_3")
        assert mend(searches) == {"done": True, "cursor": "u-1", "started": 3, "left": 0}
        runs = searches.machine.executions
        assert sorted((run["order_id"], run["customer_id"]) for run in runs.values()) == [
            ("cs_3", None),
            ("cus_1", "cus_1"),
            ("cus_2", "cus_2"),
        ]
        for name, run in runs.items():
            assert run["event_id"] == name
            order = searches.order(name)
            assert (order["state"], order["attempts"], order["event_type"]) == ("RECEIVED", 1, "gateway.recheck")
            assert (order["livemode"], order["party"], order["updated"]) == (False, run["order_id"], NOW)
            assert "email" not in order

    def test_is_for_nobody_when_nobody_differs(self, searches: Searches) -> None:
        differs(searches, "cus_1")
        searches.ledger.add_drift(
            "yesterday", "u-1", {"kind": "wrong_limit", "party": "cus_9", "relink": False}, NOW + DAY
        )
        mend(searches)
        assert len(searches.machine.executions) == 1

    def test_is_of_the_mode_of_the_gateway(self, searches: Searches) -> None:
        differs(searches, "cus_1")
        mend(searches, LIVEMODE=True)
        (name,) = searches.machine.executions
        assert searches.order(name)["livemode"] is True

    def test_has_the_name_of_its_search_and_person(self, searches: Searches) -> None:
        """Two searches are two runs, also of one second; and so are two people of one party."""
        for party, sub in (("cus_1", "u-1"), ("cus_1", "u-2"), ("cus_2", None)):
            differs(searches, party, sub)
        mend(searches)
        assert len(searches.machine.executions) == 3
        searches.ask_all("MendDrift", "mended", {"plan": {**PLAN, "started": NOW + DAY}})
        assert len(searches.machine.executions) == 6
        found = Difference("wrong_limit", "cus_1", "u-1", disables=False)
        searches.ledger.add_drift("hourly", found.subject, found.row(), NOW + DAY)
        mend(searches, search="hourly")
        assert len(searches.machine.executions) == 7
        assert all(len(name) <= 80 for name in searches.machine.executions)

    def test_waits_in_the_ledger_when_it_cannot_be_started(self, searches: Searches) -> None:
        differs(searches, "cus_1")
        searches.machine.errors.append(refusal("ThrottlingException"))
        with pytest.raises(StartThrottled):
            mend(searches)
        (name,) = searches.machine.calls
        assert searches.order(name)["due_at"] == NOW + ATTEMPT_SECONDS


class TestALostLink:
    def test_is_made_again_before_the_run(self, searches: Searches) -> None:
        differs(searches, "cus_1", "u-1", "orphaned_link", relink=True)
        links: list[str | None] = []
        searches.machine.started = lambda name: links.append(searches.ledger.party("cus_1").sub)
        mend(searches)
        assert links == ["u-1"]
        person = searches.ledger.person("u-1")
        assert person is not None
        assert (person.parties, person.before, person.live.active) == (frozenset({"cus_1"}), None, False)

    def test_takes_the_place_of_one_to_a_user_who_is_gone(self, searches: Searches) -> None:
        searches.ledger.link(["cus_1"], "u-gone", replacing=None)
        differs(searches, "cus_1", "u-1", "orphaned_link", relink=True, replacing="u-gone")
        mend(searches)
        assert searches.ledger.party("cus_1").sub == "u-1"

    @pytest.mark.parametrize("replacing", [None, "u-gone"])
    def test_takes_the_place_of_no_other(self, searches: Searches, replacing: str | None) -> None:
        """A run has linked them meanwhile."""
        searches.ledger.link(["cus_1"], "u-new", replacing=None)
        differs(searches, "cus_1", "u-1", "orphaned_link", relink=True, replacing=replacing)
        assert mend(searches)["started"] == 1
        assert searches.ledger.party("cus_1").sub == "u-new"
        assert searches.ledger.person("u-1") is None

    def test_is_not_made_to_a_user_who_is_deleted(self, searches: Searches) -> None:
        searches.ledger.bury_person("u-1", NOW)
        differs(searches, "cus_1", "u-1", "orphaned_link", relink=True)
        mend(searches)
        assert searches.ledger.party("cus_1").sub is None

    def test_is_the_only_kind_that_links(self, searches: Searches) -> None:
        differs(searches, "cus_1", "u-1", "paid_without_access")
        mend(searches)
        assert searches.ledger.party("cus_1").sub is None


class TestWhoIsLeft:
    def test_has_no_run_and_is_told_to_an_operator(self, searches: Searches, lines: list[str]) -> None:
        differs(searches, None, "u-1", "orphaned_link")
        differs(searches, "cus_2")
        assert mend(searches) == {"done": True, "cursor": "u-1", "started": 1, "left": 1}
        (line,) = [json.loads(line) for line in lines if "DriftLeft" in line]
        assert (line["level"], line["message"]) == (
            "ERROR",
            "DriftLeft: u-1 is orphaned_link, and no customer says whose",
        )

    def test_costs_no_time(self, searches: Searches) -> None:
        for each in range(9):
            differs(searches, None, f"u-{each}", "orphaned_link")
        mend(searches, PER_SECOND=1)
        assert searches.clock.slept == []


class TestPace:
    @pytest.mark.parametrize("kind", WRITES)
    def test_is_that_of_the_writes_which_a_run_may_make(self, searches: Searches, kind: Kind) -> None:
        for each in range(5):
            differs(searches, f"cus_{each}", f"u-{each}", kind)
        mend(searches, PER_SECOND=4)
        assert searches.clock.slept == [WRITES[kind] / 4] * 4

    @pytest.mark.parametrize("kind", WRITES)
    def test_of_who_has_no_user_yet_is_that_of_one(self, searches: Searches, kind: Kind) -> None:
        """Users are created by another quota of Cognito's; who has one that is not linked yet is written to as well."""
        for each in range(5):
            differs(searches, f"cus_{each}", kind=kind)
        mend(searches, PER_SECOND=4)
        assert searches.clock.slept == [(1 if kind == "paid_without_access" else WRITES[kind]) / 4] * 4

    def test_is_that_of_those_before(self, searches: Searches) -> None:
        differs(searches, "cus_1", "-1", "paid_without_access")
        differs(searches, "cus_2", kind="wrong_limit")
        differs(searches, "cus_3", kind="wrong_limit")
        mend(searches, PER_SECOND=2)
        assert searches.clock.slept == [1.5, 0.5]

    def test_is_the_operators(self, searches: Searches, resources: dict[str, Any]) -> None:
        differs(searches, "cus_1", kind="wrong_limit")
        differs(searches, "cus_2", kind="wrong_limit")
        mend(searches)
        said = resources["MendDriftFunction"]["Environment"]["Variables"]["REPAIRS_PER_SECOND"]
        assert searches.clock.slept == pytest.approx([1 / int(said)], abs=1e-6)


class TestCalls:
    @pytest.fixture
    def many(self, searches: Searches) -> Searches:
        """Eight who differ, a second of writes each, and two who are left."""
        for each in range(8):
            differs(searches, f"cus_{each}")
        for sub in ("a-1", "u-1"):
            differs(searches, None, sub, "orphaned_link")
        return searches

    @pytest.mark.parametrize("lost", [True, False])
    def test_go_on_where_the_one_before_ended(
        self, many: Searches, monkeypatch: pytest.MonkeyPatch, lost: bool
    ) -> None:
        monkeypatch.setattr("gateway.searches.TURN_SECONDS", 1)  # of which a call of this task has two
        answers = many.ask_all("MendDrift", "mended", PER_SECOND=1, lost=lost)
        assert [(each["done"], each["cursor"], each["started"], each["left"]) for each in answers] == [
            (False, "cus_2", 3, 1),
            (False, "cus_5", 6, 1),
            (True, "u-1", 8, 2),
        ]
        assert sorted(run["order_id"] for run in many.machine.executions.values()) == [f"cus_{n}" for n in range(8)]

    def test_are_for_one_person_at_least(self, many: Searches, monkeypatch: pytest.MonkeyPatch) -> None:
        """Else a slow one would come to no end; the last call may find nobody."""
        monkeypatch.setattr("gateway.searches.TURN_SECONDS", 0)
        answers = many.ask_all("MendDrift", "mended")
        rows = [each["sk"] for each in many.ledger.drifts(SEARCH)]
        assert [each["cursor"] for each in answers] == [*rows, rows[-1]]
        assert [each["started"] + each["left"] for each in answers] == [*range(1, 11), 10]
        assert [each["done"] for each in answers] == [False] * 10 + [True]
        assert len(many.machine.calls) == 8

    def test_that_are_made_again_start_nothing_twice(self, many: Searches) -> None:
        first = many.ask("MendDrift", PER_SECOND=1000)
        orders = {name: many.order(name) for name in many.machine.executions}
        many.clock.now += 20
        assert many.ask("MendDrift", PER_SECOND=1000) == first
        assert len(many.machine.calls) == 16
        assert {name: many.order(name) for name in many.machine.executions} == orders
        assert len(orders) == 8

    def test_that_are_made_again_later_leave_what_is_done(self, many: Searches) -> None:
        many.ask("MendDrift", PER_SECOND=1000)
        many.machine.ended |= set(many.machine.executions)
        for name in many.machine.executions:
            many.ledger.close(name, NOW, execution="arn:run", outcome="enabled", reason="sub_1 active")
        before = many.everything()
        many.clock.now += DAY
        assert many.ask("MendDrift", PER_SECOND=1000)["started"] == 8
        assert many.everything() == before

    @pytest.mark.parametrize("after", range(4))
    def test_go_on_after_a_failure(self, many: Searches, after: int) -> None:
        many.table.errors["put_item"] = [*[None] * after, refusal("ThrottlingException")]
        with pytest.raises(LedgerThrottled):
            many.ask("MendDrift", PER_SECOND=1000)
        assert len(many.machine.executions) == after
        assert many.ask("MendDrift", PER_SECOND=1000)["started"] == 8
        assert len(many.machine.executions) == 8

    def test_of_nobody_are_one(self, searches: Searches) -> None:
        assert searches.ask("MendDrift") == {"done": True, "cursor": None, "started": 0, "left": 0}

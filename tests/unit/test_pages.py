"""gateway.pages: every order of an account is on exactly one page, whatever happens between them."""

from typing import Any

import pytest

from gateway.errors import RequestInvalid
from gateway.ledger import Ledger
from gateway.pages import PAGE, Page, page_of
from tests.unit.operators import HOSTILE, UNPRINTABLE, Client, Operators

PARTIES = ("cs_guest", "cus_1", "cus_2.its-own", "or_1")


@pytest.fixture
def operators(dynamodb: Any, cognito: Any, pool_id: str, monkeypatch: pytest.MonkeyPatch) -> Operators:
    return Operators(dynamodb, cognito, pool_id, monkeypatch)


def recorded(operators: Operators, counts: dict[str, tuple[int, int]]) -> dict[str, list[str]]:
    """Of each party so many open and so many fulfilled orders; event ids, latest first, the open ones before."""
    found = {}
    for party, (opened, done) in counts.items():
        names = [f"evt_{party.translate({46: 95, 45: 95})}_{each:04}" for each in range(opened + done)]
        for place, name in enumerate(names):
            operators.clock.now += 1
            operators.record(name, order_id=party if party.startswith(("cs_", "or_")) else "in_1", customer_id=party)
            if place < done:
                operators.close(name)
        found[party] = list(reversed(names[done:])) + list(reversed(names[:done]))
    return found


def pages(parties: list[str], ledger: Ledger, *, fulfilled: bool) -> list[Page]:
    found = [page_of(parties, ledger, None, fulfilled=fulfilled)]
    while found[-1].next is not None:
        assert len(found) < 50
        found.append(page_of(parties, ledger, found[-1].next, fulfilled=fulfilled))
    return found


def events(*found: Page) -> list[str]:
    return [row["event_id"] for page in found for row in page.orders]


class TestEveryOrder:
    @pytest.mark.parametrize(
        ("counts", "sizes"),
        [
            ({}, [0]),
            ({"cus_1": (0, 0)}, [0]),
            ({"cus_1": (1, 0)}, [1]),
            ({"cus_1": (100, 0)}, [100]),
            ({"cus_1": (101, 0)}, [100, 1]),
            ({"cus_1": (250, 0)}, [100, 100, 50]),
            ({"cus_1": (200, 0)}, [100, 100]),
            ({"cs_guest": (1, 0), "cus_1": (98, 0), "or_1": (1, 0)}, [100]),
            ({"cs_guest": (1, 0), "cus_1": (99, 0), "or_1": (1, 0)}, [100, 1]),
            ({"cs_guest": (100, 0), "cus_1": (0, 0), "or_1": (1, 0)}, [100, 1]),
            (
                {"cs_guest": (60, 0), "cus_1": (60, 0), "cus_2.its-own": (60, 0), "or_1": (70, 0)},
                [100, 100, 50],
            ),
            ({"cus_1": (250, 30)}, [100, 100, 50]),
        ],
    )
    def test_that_is_open_is_on_one_page(
        self, operators: Operators, counts: dict[str, tuple[int, int]], sizes: list[int]
    ) -> None:
        names = recorded(operators, counts)
        found = pages(list(counts), operators.ledger, fulfilled=False)
        assert [len(page.orders) for page in found] == sizes
        assert events(*found) == [each for party in sorted(names) for each in names[party][: counts[party][0]]]

    @pytest.mark.parametrize(
        ("counts", "sizes"),
        [
            ({"cus_1": (0, 1)}, [1]),
            ({"cus_1": (50, 50)}, [100]),
            ({"cus_1": (50, 51)}, [100, 1]),
            ({"cus_1": (100, 101)}, [100, 100, 1]),
            ({"cs_guest": (99, 3), "cus_1": (0, 120), "or_1": (20, 8)}, [100, 100, 50]),
        ],
    )
    def test_is_on_one_page_of_the_history(
        self, operators: Operators, counts: dict[str, tuple[int, int]], sizes: list[int]
    ) -> None:
        names = recorded(operators, counts)
        found = pages(list(counts), operators.ledger, fulfilled=True)
        assert [len(page.orders) for page in found] == sizes
        assert events(*found) == [each for party in sorted(names) for each in names[party]]

    def test_of_one_second_is_on_one_page(self, operators: Operators) -> None:
        names = sorted((f"evt_{each}" for each in range(250)), reverse=True)
        for each in names:
            operators.record(each, customer_id="cus_1")
        assert events(*pages(["cus_1"], operators.ledger, fulfilled=False)) == names

    def test_of_somebody_else_is_on_none(self, operators: Operators) -> None:
        recorded(operators, {"cus_1": (1, 0), "cus_2": (1, 0), "cus_10": (1, 0), "cus": (1, 0)})
        assert events(*pages(["cus_1"], operators.ledger, fulfilled=True)) == ["evt_cus_1_0000"]


def test_a_page_costs_a_query_for_each_party_and_one_look_at_the_orders(operators: Operators) -> None:
    recorded(operators, dict.fromkeys(PARTIES, (30, 0)))
    counting = Client(operators.dynamodb)
    page_of(PARTIES, Ledger(counting, "orders"), None, fulfilled=True)
    assert counting.calls == {"query": 4, "batch_get_item": 1}


class TestBetweenPages:
    def test_orders_are_closed(self, operators: Operators) -> None:
        names = recorded(operators, {"cus_1": (250, 0)})["cus_1"]
        first = page_of(["cus_1"], operators.ledger, None, fulfilled=False)
        # Some that were shown (also the last, where the next page begins), some that come, not all of the next page.
        closed = {*names[98:103], *names[110:250:2]}
        operators.close(*closed)
        second = page_of(["cus_1"], operators.ledger, first.next, fulfilled=False)
        assert events(first) == names[:100]
        assert events(second) == [each for each in names[100:] if each not in closed]
        assert second.next is None

    def test_all_are_closed(self, operators: Operators) -> None:
        recorded(operators, {"cus_1": (150, 0)})
        first = page_of(["cus_1"], operators.ledger, None, fulfilled=False)
        operators.close(*(f"evt_cus_1_{each:04}" for each in range(150)))
        assert page_of(["cus_1"], operators.ledger, first.next, fulfilled=False) == Page([], None)

    def test_no_order_is_missed_in_the_history_when_it_is_closed(self, operators: Operators) -> None:
        names = recorded(operators, {"cus_1": (150, 100)})["cus_1"]
        found = [page_of(["cus_1"], operators.ledger, None, fulfilled=True)]
        operators.close(*names[50:150])
        while found[-1].next is not None:
            found.append(page_of(["cus_1"], operators.ledger, found[-1].next, fulfilled=True))
        # Those that were shown open are shown again as they are now.
        assert set(events(*found)) == set(names)
        assert events(*found).count(names[10]) == 1

    def test_new_orders_do_not_move_the_old_ones(self, operators: Operators) -> None:
        names = recorded(operators, {"cus_1": (150, 0)})["cus_1"]
        first = page_of(["cus_1"], operators.ledger, None, fulfilled=False)
        operators.clock.now += 1
        operators.record("evt_new")
        assert events(page_of(["cus_1"], operators.ledger, first.next, fulfilled=False)) == names[100:]

    def test_a_customer_joins(self, operators: Operators) -> None:
        names = recorded(operators, {"cus_1": (150, 0), "cus_3": (5, 0)})
        first = page_of(["cus_1"], operators.ledger, None, fulfilled=False)
        second = page_of(["cus_1", "cus_3"], operators.ledger, first.next, fulfilled=False)
        assert events(second) == names["cus_1"][100:] + names["cus_3"]

    def test_an_order_of_the_index_that_is_gone_is_left_out(self, operators: Operators) -> None:
        recorded(operators, {"cus_1": (3, 0)})

        class Lagging(Ledger):
            def orders(self, party: str, **more: Any) -> list[str]:
                return ["OPEN#1#evt_gone", *super().orders(party, **more)]

        page = page_of(["cus_1"], Lagging(operators.dynamodb, "orders"), None, fulfilled=False)
        assert events(page) == ["evt_cus_1_0002", "evt_cus_1_0001", "evt_cus_1_0000"]


class TestForgedToken:
    @pytest.mark.parametrize("fulfilled", [False, True])
    @pytest.mark.parametrize(
        "token",
        [
            "",
            "cus_1",
            "cus_1|",
            "|OPEN#1#evt_1",
            "cus_1|OPEN#1",
            "cus_1|OPEN#1#",
            "cus_1|OPEN#x#evt_1",
            "cus_1|OPEN#٣#evt_1",
            "cus_1|OPEN#-1#evt_1",
            "cus_1|OPEN#1234567890123456#evt_1",
            "cus_1|OPEN$1#evt_1",
            "cus_1|PARTY",
            "cus_1|PARTY#1#evt_1",
            "cus_1|open#1#evt_1",
            "cus_1|OPEN#1#evt_1|",
            "cus_1|OPEN#1#evt_1\n",
            " cus_1|OPEN#1#evt_1",
            "cus_1|OPEN#1#evt#1",
            "cus_1|OPEN#1#" + "e" * 71,
            "cus_2|OPEN#1#evt_1",
            "cus_10|OPEN#1#evt_1",
            "CUS_1|OPEN#1#evt_1",
            *HOSTILE[:5],
            *HOSTILE[6:7],
            *HOSTILE[8:],
            *UNPRINTABLE,
        ],
    )
    def test_is_refused_before_anything_is_read(self, operators: Operators, token: str, fulfilled: bool) -> None:
        counting = Client(operators.dynamodb)
        with pytest.raises(RequestInvalid) as refused:
            page_of(["cus_1", "cus_3"], Ledger(counting, "orders"), token, fulfilled=fulfilled)
        assert counting.total == 0
        assert str(refused.value) == "next is not what a page of this address ended with"

    def test_of_the_history_is_none_of_the_open_orders(self, operators: Operators) -> None:
        recorded(operators, {"cus_1": (0, 150)})
        token = page_of(["cus_1"], operators.ledger, None, fulfilled=True).next
        assert token is not None
        with pytest.raises(RequestInvalid):
            page_of(["cus_1"], operators.ledger, token, fulfilled=False)

    @pytest.mark.parametrize("token", ["cus_1|OPEN#0#evt_0", "cus_1|OPEN#999999999999999#evt_0", "cus_1|DONE#0#evt"])
    def test_of_the_same_address_shows_no_more_than_that_address(self, operators: Operators, token: str) -> None:
        names = recorded(operators, {"cus_1": (2, 2), "cus_2": (2, 2)})
        shown = events(page_of(["cus_1"], operators.ledger, token, fulfilled=True))
        assert set(shown) <= set(names["cus_1"])


def test_the_longest_token_is_read(operators: Operators) -> None:
    party, event = "c" * 200, "e" * 70
    operators.clock.now = 999_999_999_999_999
    operators.record(event, customer_id=party)
    for each in range(PAGE):
        operators.record(f"e_{each}", int(operators.clock.now) - 1, customer_id=party)
    token = f"{party}|OPEN#999999999999999#{event}"
    assert len(token) < 400
    page = page_of([party], operators.ledger, token, fulfilled=False)
    assert (len(page.orders), page.next) == (PAGE, None)

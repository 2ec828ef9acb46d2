"""The calls about a user's dapps: never more than are paid for, the same answer to the same question, and patience with
whoever writes to the same person."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError

from gateway import dapps
from gateway.access import Live
from gateway.dapps import FIRST_WAIT, LONGEST_WAIT, PATIENCE, patiently, person_of, standing
from gateway.errors import LedgerRejected, LedgerThrottled, LedgerUnavailable
from gateway.ledger import Ledger, Person
from tests.unit.steps import NOW, Json, module

SUB = "11111111-2222-4333-8444-555555555555"
BAN = {"reason": "spam", "requested_by": "jo", "at": NOW}
SILENT = ConnectTimeoutError(endpoint_url="https://dynamodb")


@dataclass
class Clock:
    """The time that passes while somebody waits; chance makes every wait as long as it may be."""

    now: float = 1_000.0
    slept: list[float] = field(default_factory=list)
    meant: list[tuple[float, float]] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return NOW

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def uniform(self, low: float, high: float) -> float:
        self.meant.append((low, high))
        return high


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(dapps, "time", clock)
    monkeypatch.setattr(dapps, "random", clock)
    return clock


def canceled(*reasons: str) -> ClientError:
    """A transaction that did not happen."""
    response: Any = {
        "Error": {"Code": "TransactionCanceledException", "Message": SUB},
        "ResponseMetadata": {"HTTPStatusCode": 400},
        "CancellationReasons": [{"Code": each} for each in reasons],
    }
    return ClientError(response, "TransactWriteItems")


CONFLICT = canceled("None", "TransactionConflict")


class Table:
    """A DynamoDB client. `errors`: what the next transactions end with, or "lost": they happen, and their answer gets
    lost. `meanwhile` happens one by one, each after a transaction."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.errors: list[Exception | str] = []
        self.meanwhile: list[Callable[[], object]] = []
        self.transactions = 0

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        return getattr(self._real, operation)  # type: ignore[no-any-return]

    def transact_write_items(self, **request: Any) -> Any:
        self.transactions += 1
        error = self.errors.pop(0) if self.errors else None
        try:
            if isinstance(error, Exception):
                raise error
            answer = self._real.transact_write_items(**request)
            if error == "lost":
                raise SILENT
            return answer
        finally:
            if self.meanwhile:
                self.meanwhile.pop(0)()


class Buyer:
    """A user who pays for three dapps, and what they ask."""

    def __init__(self, dynamodb: Any, clock: Clock, patch: pytest.MonkeyPatch) -> None:
        self.ledger = Ledger(dynamodb, "orders")
        self.table = Table(dynamodb)
        self._clock, self._patch = clock, patch
        self.pays_for(3)

    def pays_for(self, limit: int) -> None:
        self.ledger.set_live(SUB, Live(True, limit), NOW)

    def has(self, *names: str) -> None:
        """These are reserved before."""
        for name in names:
            assert self.ledger.reserve_dapp(SUB, name, NOW)

    def reserve(self, name: str) -> tuple[int, Json]:
        return self._ask("ReserveDapp", body=json.dumps({"id": name}))

    def release(self, name: str) -> tuple[int, Json]:
        return self._ask("ReleaseDapp", pathParameters={"id": name})

    def list(self, after: str | None = None) -> tuple[int, Json]:
        return self._ask("ListDapps", queryStringParameters=None if after is None else {"next": after})

    @property
    def names(self) -> tuple[str, ...]:
        """What is reserved; and the count on the person's row is of that."""
        found = self.ledger.dapps(SUB, after=None, limit=1000)
        assert person_of(SUB, self.ledger).used == len(found)
        return tuple(name for name, _ in found)

    def _ask(self, function: str, **envelope: Any) -> tuple[int, Json]:
        asked = module(function)
        self._patch.setattr(asked, "ledger", Ledger(self.table, "orders"))
        if hasattr(asked, "time"):
            self._patch.setattr(asked, "time", self._clock)
        authorised = {"authorizer": {"lambda": {"sub": SUB, "limit": 3, "used": 0}}}
        event = {"version": "2.0", "requestContext": authorised, "isBase64Encoded": False, **envelope}
        answer = asked.handler(event, SimpleNamespace(function_name=function, aws_request_id="request-1"))
        return answer["statusCode"], json.loads(answer["body"])


@pytest.fixture
def buyer(dynamodb: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Buyer:
    return Buyer(dynamodb, clock, monkeypatch)


def end(buyer: Buyer) -> None:
    buyer.ledger.set_live(SUB, Live(), NOW)


def hold(buyer: Buyer) -> None:
    buyer.ledger.hold(SUB, BAN)


def delete(buyer: Buyer) -> None:
    buyer.ledger.bury_person(SUB, NOW)


BARS = [pytest.param(bar, word, id=word) for bar, word in ((end, "inactive"), (hold, "held"), (delete, "deleted"))]


class TestReserve:
    def test_of_a_new_one_is_201(self, buyer: Buyer) -> None:
        assert buyer.reserve("a") == (201, {"id": "a", "used": 1, "limit": 3})
        assert buyer.reserve("b") == (201, {"id": "b", "used": 2, "limit": 3})
        assert buyer.ledger.dapps(SUB, after=None, limit=9) == [("a", NOW), ("b", NOW)]

    def test_of_the_same_again_is_200_and_reserves_nothing_more(self, buyer: Buyer) -> None:
        buyer.reserve("a")
        for _ in range(2):
            assert buyer.reserve("a") == (200, {"id": "a", "used": 1, "limit": 3})
        assert buyer.names == ("a",)

    @pytest.mark.parametrize("limit", [3, 2, 0])
    def test_of_one_too_many_says_how_many_there_are_and_what_to_do(self, buyer: Buyer, limit: int) -> None:
        buyer.has("a", "b", "c")
        buyer.pays_for(limit)
        status, said = buyer.reserve("d")
        assert (status, said["error"], said["used"], said["limit"]) == (403, "LimitReached", 3, limit)
        assert said["message"].startswith(f"3 dapps are reserved and {limit} paid for: ")
        assert "release one, or pay for more" in said["message"]
        assert buyer.names == ("a", "b", "c")

    def test_of_whoever_pays_for_none_says_so(self, buyer: Buyer) -> None:
        buyer.pays_for(0)
        status, said = buyer.reserve("a")
        assert (status, said["error"], said["used"], said["limit"]) == (403, "LimitReached", 0, 0)

    @pytest.mark.parametrize("limit", [3, 2])
    def test_of_the_same_again_at_the_limit_is_200(self, buyer: Buyer, limit: int) -> None:
        buyer.has("a", "b", "c")
        buyer.pays_for(limit)
        assert buyer.reserve("b") == (200, {"id": "b", "used": 3, "limit": limit})

    def test_fits_again_after_a_release_or_a_payment(self, buyer: Buyer) -> None:
        buyer.has("a", "b", "c")
        assert buyer.reserve("d")[0] == 403
        buyer.release("a")
        assert buyer.reserve("d") == (201, {"id": "d", "used": 3, "limit": 3})
        buyer.pays_for(4)
        assert buyer.reserve("a") == (201, {"id": "a", "used": 4, "limit": 4})

    @pytest.mark.parametrize(("bar", "word"), BARS)
    @pytest.mark.parametrize("name", ["a", "new"])
    def test_is_refused_once_access_has_ended(
        self, buyer: Buyer, bar: Callable[[Buyer], None], word: str, name: str
    ) -> None:
        """The authorizer may have looked just before that."""
        buyer.has("a")
        bar(buyer)
        assert buyer.reserve(name) == (403, {"error": "NoAccess", "message": f"access has ended ({word})"})
        assert buyer.names == ("a",)

    def test_of_somebody_unknown_is_refused(self, buyer: Buyer, dynamodb: Any) -> None:
        dynamodb.delete_item(TableName="orders", Key={"pk": {"S": f"PERSON#{SUB}"}, "sk": {"S": "PERSON"}})
        assert buyer.reserve("a") == (403, {"error": "NoAccess", "message": "access has ended (inactive)"})
        assert buyer.ledger.person(SUB) is None

    @pytest.mark.parametrize("error", [CONFLICT, canceled("ThrottlingError", "None"), canceled("TransactionConflict")])
    @pytest.mark.parametrize("times", [1, 5])
    def test_waits_for_those_who_write_to_the_same_person(
        self, buyer: Buyer, clock: Clock, error: Exception, times: int
    ) -> None:
        buyer.table.errors = [error] * times
        assert buyer.reserve("a") == (201, {"id": "a", "used": 1, "limit": 3})
        assert (buyer.table.transactions, len(clock.slept)) == (times + 1, times)

    def test_is_503_when_they_never_end_and_reserves_nothing(self, buyer: Buyer, clock: Clock) -> None:
        buyer.table.errors = [CONFLICT] * 1000
        status, said = buyer.reserve("a")
        assert (status, said["error"]) == (503, "Unavailable")
        assert PATIENCE <= sum(clock.slept) <= PATIENCE + LONGEST_WAIT
        assert buyer.names == ()

    def test_that_happened_without_an_answer_is_200_when_it_is_asked_for_again(self, buyer: Buyer) -> None:
        buyer.has("a", "b")
        buyer.table.errors = ["lost"]
        status, said = buyer.reserve("c")
        assert (status, said["error"]) == (503, "Unavailable")
        assert buyer.reserve("c") == (200, {"id": "c", "used": 3, "limit": 3})
        assert buyer.names == ("a", "b", "c")

    def test_that_was_refused_while_one_was_released_tries_again(self, buyer: Buyer, clock: Clock) -> None:
        buyer.has("a", "b", "c")
        buyer.table.meanwhile = [lambda: buyer.ledger.release_dapp(SUB, "a")]
        assert buyer.reserve("d") == (201, {"id": "d", "used": 3, "limit": 3})
        assert len(clock.slept) == 1

    def test_that_was_refused_while_the_limit_rose_tries_again(self, buyer: Buyer) -> None:
        buyer.has("a", "b", "c")
        buyer.table.meanwhile = [lambda: buyer.pays_for(4)]
        assert buyer.reserve("d") == (201, {"id": "d", "used": 4, "limit": 4})

    def test_of_the_same_that_was_released_meanwhile_reserves_it_anew(self, buyer: Buyer) -> None:
        buyer.has("a")
        buyer.table.meanwhile = [lambda: buyer.ledger.release_dapp(SUB, "a")]
        assert buyer.reserve("a") == (201, {"id": "a", "used": 1, "limit": 3})

    @pytest.mark.parametrize(("bar", "word"), BARS)
    def test_that_waits_is_refused_when_access_ends_meanwhile(
        self, buyer: Buyer, bar: Callable[[Buyer], None], word: str
    ) -> None:
        buyer.table.errors = [CONFLICT]
        buyer.table.meanwhile = [lambda: bar(buyer)]
        assert buyer.reserve("a") == (403, {"error": "NoAccess", "message": f"access has ended ({word})"})
        assert buyer.names == ()

    @pytest.mark.parametrize("name", ["", "..", "a/b", "x" * 129])
    def test_of_what_is_no_name_calls_nothing(self, buyer: Buyer, name: str) -> None:
        assert buyer.reserve(name)[0] == 400
        assert buyer.table.transactions == 0


class TestRelease:
    def test_gives_back_one(self, buyer: Buyer) -> None:
        buyer.has("a", "b")
        assert buyer.release("a") == (200, {"id": "a", "used": 1, "limit": 3})
        assert buyer.names == ("b",)

    def test_of_what_is_not_reserved_is_200_as_well(self, buyer: Buyer) -> None:
        buyer.has("a", "b")
        for name in ("a", "a", "unknown"):
            assert buyer.release(name) == (200, {"id": name, "used": 1, "limit": 3})
        assert buyer.names == ("b",)

    def test_is_possible_when_more_are_used_than_paid_for(self, buyer: Buyer) -> None:
        buyer.has("a", "b", "c")
        buyer.pays_for(1)
        assert buyer.release("a") == (200, {"id": "a", "used": 2, "limit": 1})

    def test_of_somebody_unknown_changes_nothing(self, buyer: Buyer, dynamodb: Any) -> None:
        dynamodb.delete_item(TableName="orders", Key={"pk": {"S": f"PERSON#{SUB}"}, "sk": {"S": "PERSON"}})
        assert buyer.release("a") == (200, {"id": "a", "used": 0, "limit": 0})
        assert buyer.ledger.person(SUB) is None

    def test_waits_for_those_who_write_to_the_same_person(self, buyer: Buyer, clock: Clock) -> None:
        buyer.has("a")
        buyer.table.errors = [CONFLICT] * 3
        assert buyer.release("a") == (200, {"id": "a", "used": 0, "limit": 3})
        assert len(clock.slept) == 3

    def test_is_503_when_they_never_end_and_gives_nothing_back(self, buyer: Buyer) -> None:
        buyer.has("a")
        buyer.table.errors = [CONFLICT] * 1000
        status, said = buyer.release("a")
        assert (status, said["error"]) == (503, "Unavailable")
        assert buyer.names == ("a",)

    def test_that_happened_without_an_answer_happens_once(self, buyer: Buyer) -> None:
        buyer.has("a", "b")
        buyer.table.errors = ["lost"]
        assert buyer.release("a")[0] == 503
        assert buyer.release("a") == (200, {"id": "a", "used": 1, "limit": 3})
        assert buyer.names == ("b",)

    @pytest.mark.parametrize("name", ["", "..", "a/b", "x" * 129])
    def test_of_what_is_no_name_calls_nothing(self, buyer: Buyer, name: str) -> None:
        assert buyer.release(name)[0] == 400
        assert buyer.table.transactions == 0


class TestList:
    def test_tells_each_and_when_it_was_reserved(self, buyer: Buyer) -> None:
        buyer.has("b", "a")
        told = [{"id": "a", "reserved_at": NOW}, {"id": "b", "reserved_at": NOW}]
        assert buyer.list() == (200, {"dapps": told, "used": 2, "limit": 3, "next": None})

    def test_of_none_is_empty(self, buyer: Buyer) -> None:
        assert buyer.list() == (200, {"dapps": [], "used": 0, "limit": 3, "next": None})

    def test_comes_in_pages_of_500(self, buyer: Buyer, dynamodb: Any) -> None:
        names = [f"d{number:04}" for number in range(501)]
        for name in names[:500]:
            row = {"pk": {"S": f"PERSON#{SUB}"}, "sk": {"S": f"DAPP#{name}"}, "reserved_at": {"N": str(NOW)}}
            dynamodb.put_item(TableName="orders", Item=row)
        _, said = buyer.list()
        assert ([each["id"] for each in said["dapps"]], said["next"]) == (names[:500], None)
        buyer.has(names[500])
        _, said = buyer.list()
        assert ([each["id"] for each in said["dapps"]], said["next"]) == (names[:500], names[499])
        _, said = buyer.list(said["next"])
        assert ([each["id"] for each in said["dapps"]], said["next"]) == (names[500:], None)

    def test_goes_on_after_one_that_is_released_meanwhile(self, buyer: Buyer) -> None:
        buyer.has("a", "b", "c")
        buyer.release("b")
        assert [each["id"] for each in buyer.list("b")[1]["dapps"]] == ["c"]

    @pytest.mark.parametrize("after", ["", "..", "a/b", "DAPP#a"])
    def test_after_what_is_no_name_is_refused(self, buyer: Buyer, after: str) -> None:
        assert buyer.list(after)[0] == 400


class TestPatience:
    class Busy:
        """Something that others write to this many times before it is our turn, each time for so long."""

        def __init__(self, times: int, clock: Clock, takes: float = 0) -> None:
            self.left, self.tried = times, 0
            self._clock, self._takes = clock, takes

        def __call__(self) -> str:
            self.tried += 1
            self._clock.now += self._takes
            if self.left:
                self.left -= 1
                raise LedgerThrottled("others")
            return "done"

    def test_is_not_needed_when_nobody_else_writes(self, clock: Clock) -> None:
        assert patiently(self.Busy(0, clock)) == "done"
        assert clock.slept == []

    def test_waits_up_to_twice_as_long_each_time(self, clock: Clock) -> None:
        assert patiently(self.Busy(7, clock)) == "done"
        highs = [FIRST_WAIT * 2**each for each in range(5)] + [LONGEST_WAIT] * 2
        assert clock.meant == [(0, high) for high in highs]
        assert clock.slept == highs

    @pytest.mark.parametrize("takes", [0, 0.7, PATIENCE])
    def test_ends_after_a_last_try(self, clock: Clock, takes: float) -> None:
        busy, began = self.Busy(10_000, clock, takes), clock.now
        with pytest.raises(LedgerThrottled, match="others"):
            patiently(busy)
        assert PATIENCE <= clock.now - began <= PATIENCE + LONGEST_WAIT + takes
        assert busy.tried == len(clock.slept) + 1

    def test_takes_what_comes_within_it(self, clock: Clock) -> None:
        busy = self.Busy(10_000, clock)
        with pytest.raises(LedgerThrottled):
            patiently(busy)
        assert patiently(self.Busy(busy.tried - 1, clock)) == "done"

    def test_differs_between_those_who_wait(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        """Otherwise all would come back together."""
        monkeypatch.setattr(dapps, "random", random.Random(1))
        for _ in range(20):
            patiently(self.Busy(1, clock))
        assert all(0 <= each <= FIRST_WAIT for each in clock.slept)
        assert len(set(clock.slept)) == 20

    @pytest.mark.parametrize("error", [LedgerUnavailable("?"), LedgerRejected("no"), ValueError("a defect")])
    def test_is_with_nothing_else(self, clock: Clock, error: Exception) -> None:
        def fail() -> None:
            raise error

        with pytest.raises(type(error)) as caught:
            patiently(fail)
        assert caught.value is error
        assert clock.slept == []

    @pytest.mark.parametrize("function", ["ReserveDapp", "ReleaseDapp"])
    def test_ends_before_the_lambda_does(
        self, function: str, template: dict[str, Any], resources: dict[str, Any]
    ) -> None:
        usual = template["Globals"]["Function"]["Timeout"]
        assert resources[f"{function}Function"].get("Timeout", usual) >= PATIENCE + LONGEST_WAIT + 5


def test_whoever_is_unknown_has_nothing(buyer: Buyer) -> None:
    found = person_of("unknown", buyer.ledger)
    assert found == Person("unknown", frozenset())
    assert standing(found) == {"used": 0, "limit": 0}

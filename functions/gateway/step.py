"""What every task of the state machine shares: its input, its log lines, and errors without personal data."""

import contextlib
import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from gateway.access import Access, Live, Target, User
from gateway.defects import defect
from gateway.errors import GatewayError, UnexpectedError
from gateway.events import is_order, party_of
from gateway.ledger import Change
from gateway.telemetry import count, logger

Handler = Callable[[dict[str, Any], Any], dict[str, Any]]
_Invocation = TypeVar("_Invocation", "Run", "Deletion", "Search")


@dataclass(frozen=True, slots=True)
class Run:
    """One invocation of a task. `execution` is the ARN; `owner` names this very invocation (ledger leases).

    `state` is the execution's data so far: its input {event_id, order_id, customer_id} and what the tasks before
    this one answered, under `billing`, `lookup`, `change` and `error`.
    """

    execution: str
    owner: str
    state: Mapping[str, Any]

    @property
    def keys(self) -> dict[str, str]:
        """What every log line names."""
        return {"event_id": self.event_id, "order_id": self.order_id}

    @property
    def event_id(self) -> str:
        return str(self.state["event_id"])

    @property
    def order_id(self) -> str:
        return str(self.state["order_id"])

    @property
    def party(self) -> str:
        """Whose order it is. What names only a charge is its own party until ReadBilling has found the payer."""
        return self.parties[0] if "billing" in self.state else party_of(self.order_id, self.state["customer_id"])

    @property
    def payer_unknown(self) -> bool:
        """Whether nobody has asked Stripe yet whom the order concerns."""
        return "billing" not in self.state and self.state["customer_id"] is None and not is_order(self.order_id)

    @property
    def customer_id(self) -> str | None:
        """The Stripe customer, None for an order without one."""
        return None if is_order(self.party) else self.party

    @property
    def attempt(self) -> int:
        """The number in the execution's name (ledger.Attempt.execution_name)."""
        _, found, number = self.execution.rpartition(":")[2].rpartition("-r")
        return int(number) if found and number.isdigit() else 1

    @property
    def passes(self) -> int:
        """How often this execution has looked at Stripe."""
        return int(self.state["billing"]["pass"]) if "billing" in self.state else 0

    @property
    def access(self) -> Access:
        return Access(**{**self.state["billing"]["access"], "alarms": ()})

    @property
    def target(self) -> Target:
        return Target(**self.state["lookup"]["target"])

    @property
    def live_target(self) -> Live:
        """What the authorizer is to let the user do."""
        return Live(**self.state["lookup"]["live_target"])

    @property
    def unbanned(self) -> bool:
        """Whether an operator has banned the user, who was enabled all the same."""
        return bool(self.state["lookup"]["unbanned"])

    @property
    def signs_out(self) -> bool:
        """Whether this ends what the authorizer let the user do until now."""
        return bool(self.state["lookup"]["live"]["active"]) and not self.live_target.active

    @property
    def live_sub(self) -> str:
        """Of whom, in states where DecideAccess saw that this differs: the user, or one who was deleted by hand."""
        return str(self.state["lookup"]["live"]["sub"])

    @property
    def seen(self) -> Mapping[str, Any]:
        """The user as LookupUser saw them."""
        found: Mapping[str, Any] = self.state["lookup"]["user"]
        return found

    @property
    def user(self) -> User:
        return User(**{name: value for name, value in self.seen.items() if name not in ("comped", "held")})

    @property
    def sub(self) -> str:
        """The user's, in states where DecideAccess saw one."""
        return str(self.seen["sub"])

    @property
    def read_at(self) -> int:
        """When ReadBilling began to read."""
        return int(self.state["billing"]["read_at"])

    @property
    def deleted_at(self) -> int:
        """When the account of the payer was deleted, as far as ReadBilling knew; 0: never."""
        return int(self.state["billing"]["deleted_at"] or 0)

    @property
    def erased(self) -> bool:
        """Whether nothing was bought since then, so that nothing personal is to be kept."""
        return bool(self.state["billing"]["erased"])

    @property
    def parties(self) -> list[str]:
        """Whose billing was read."""
        return list(self.state["billing"]["parties"])

    def change(self, before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> Change:
        """What this run is about to change, for the person's row."""
        return Change(
            shape(before) if before is not None else None,
            after,
            self.access.reason,
            self.execution,
        )

    def changed(self, after: Mapping[str, Any] | None) -> dict[str, Any]:
        """A writer's answer: how the user stood before this execution's first change, and stands now."""
        first = self.change_so_far
        return {"before": shape(self.seen) if first["after"] is None else first["before"], "after": after}

    @property
    def change_so_far(self) -> dict[str, Any]:
        """What this execution has changed until now; also a writer's answer when it wrote nothing, because the user
        was not as DecideAccess saw them."""
        return dict(self.state.get("change", {"before": None, "after": None}))


@dataclass(frozen=True, slots=True)
class Deletion:
    """One invocation of a task of the offboarding machine; the fields are those of Run.

    `state` is its input {tombstone} and what the tasks before this one answered, under `remains` and `error`.
    """

    execution: str
    owner: str
    state: Mapping[str, Any]

    @property
    def keys(self) -> dict[str, str]:
        """What every log line names."""
        return {"tombstone": self.id}

    @property
    def id(self) -> str:
        """The tombstone's."""
        return str(self.state["tombstone"])

    @property
    def passes(self) -> int:
        """How often this execution has looked for what remains."""
        return int(self.state["remains"]["pass"]) if "remains" in self.state else 0


@dataclass(frozen=True, slots=True)
class Search:
    """One invocation of a task of the reconciliation machine; the fields are those of Run.

    `state` is its input and what the tasks before this one answered, under `plan`, `events`, `scan`, `shards`, `drift`,
    `mended` and `error`; in a shard, that shard and `compared`.
    """

    execution: str
    owner: str
    state: Mapping[str, Any]

    @property
    def keys(self) -> dict[str, str]:
        """What every log line names."""
        return {"reconciliation": self.id}

    @property
    def id(self) -> str:
        """The name of the execution; a shard, which is one of its own, is told."""
        return str(self.state["id"] if {"id", "source"} <= self.state.keys() else self.execution.rpartition(":")[2])

    @property
    def plan(self) -> Mapping[str, Any]:
        """What PlanReconciliation answered."""
        found: Mapping[str, Any] = self.state["plan"]
        return found

    def before(self, result: str) -> Mapping[str, Any]:
        """What this task answered the last time, when it had to end before its end; empty at first."""
        found: Mapping[str, Any] = self.state.get(result, {})
        return found


def shape(user: Mapping[str, Any]) -> dict[str, Any] | None:
    """The part of a user's facts that operators ask for; None: there was no user."""
    if not user["exists"]:
        return None
    return {name: user[name] for name in ("enabled", "dapp_limit", "payment_status")}


def failure(error: Mapping[str, str]) -> str:
    """What a Catch keeps, as operators read it: the error's name, and the message in a Lambda's error envelope."""
    cause = error.get("Cause", "")
    with contextlib.suppress(ValueError, KeyError, TypeError):
        cause = str(json.loads(cause)["errorMessage"])
    return f"{error['Error']}: {cause}"


Task = Callable[[_Invocation], dict[str, Any]]


def step(task: Callable[[Run], dict[str, Any]]) -> Handler:
    """Make a Lambda handler of a task: {"execution": ARN, "run": state} in, the task's answer out. What the task counts
    is sent."""
    return _handler(task, Run)


def deletion_step(task: Callable[[Deletion], dict[str, Any]]) -> Handler:
    """The same for the offboarding machine."""
    return _handler(task, Deletion)


def search_step(task: Callable[[Search], dict[str, Any]]) -> Handler:
    """The same for the reconciliation machine."""
    return _handler(task, Search)


def _handler(task: Task[_Invocation], kind: Callable[[str, str, Mapping[str, Any]], _Invocation]) -> Handler:
    @functools.wraps(task)
    def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
        run = kind(event["execution"], context.aws_request_id, event["run"])
        logger.append_keys(function=context.function_name, execution=run.execution, **run.keys)
        try:
            answer = task(run)
        except GatewayError as error:
            logger.warning("%s: %s", type(error).__name__, error)
            raise
        except Exception as error:
            logger.error("UnexpectedError: %s", defect(error))
            raise UnexpectedError(defect(error)) from None
        logger.info("done", answer=answer)
        return answer

    return count(handler)

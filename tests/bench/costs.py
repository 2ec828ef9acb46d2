"""What an event costs: the calls that it makes, and the dollars that AWS takes for a million of it.

The counts are those of real executions: tests/workflow/test_costs.py runs them, and fails when one is another.
"""

from collections import Counter
from dataclasses import dataclass, field

from tests.bench.measure import Table


@dataclass(frozen=True)
class Counts:
    """What events made the gateway do, from Stripe's request to the end of the last execution.

    `transitions` as AWS bills them: each state that was entered, and each retry. `cognito`: calls by operation.
    `read_units`, `write_units`: DynamoDB's request units. `notices`: events put on the bus.
    """

    events: int = 0
    transitions: int = 0
    invocations: int = 0
    stripe_reads: int = 0
    cognito: dict[str, int] = field(default_factory=dict)
    read_units: float = 0
    write_units: int = 0
    notices: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.events + other.events,
            self.transitions + other.transitions,
            self.invocations + other.invocations,
            self.stripe_reads + other.stripe_reads,
            dict(Counter(self.cognito) + Counter(other.cognito)),
            self.read_units + other.read_units,
            self.write_units + other.write_units,
            self.notices + other.notices,
        )


# The price carries its mapping, and the user has signed in before (all but the first purchase).
COUNTS = {
    "renewal: invoice.paid": Counts(1, 5, 4, 1, {"AdminGetUser": 1}, 5.5, 10),
    "renewal: customer.subscription.updated": Counts(1, 5, 4, 1, {"AdminGetUser": 1}, 5.5, 7),
    "first purchase: the first event": Counts(1, 9, 7, 2, {"AdminCreateUser": 1, "AdminGetUser": 4}, 12.5, 24, 1),
    "first purchase: all five, in turn": Counts(5, 29, 23, 6, {"AdminCreateUser": 1, "AdminGetUser": 8}, 34.5, 61, 1),
    "first purchase: all five, at once": Counts(5, 45, 35, 10, {"AdminCreateUser": 1, "AdminGetUser": 16}, 54.5, 69, 1),
    "limit change": Counts(1, 9, 7, 2, {"AdminGetUser": 4, "AdminUpdateUserAttributes": 1}, 11.5, 15, 1),
    "lapse": Counts(
        1,
        9,
        7,
        2,
        {"AdminDisableUser": 1, "AdminGetUser": 4, "AdminUpdateUserAttributes": 1, "AdminUserGlobalSignOut": 1},
        11.5,
        17,
        1,
    ),
    "recovery": Counts(
        1, 9, 7, 2, {"AdminEnableUser": 1, "AdminGetUser": 4, "AdminUpdateUserAttributes": 2}, 11.5, 19, 1
    ),
}

# Transitions, at most.
GOALS = dict(zip(COUNTS, (5, 5, 9, 29, 45, 9, 9, 9), strict=True))

# Dollars, us-east-1, November 2026, without free tiers.
TRANSITION = 25 / 10**6  # Step Functions, STANDARD
INVOCATION = 0.20 / 10**6
GB_SECOND = 0.0000133334  # Lambda on arm64
READ_UNIT, WRITE_UNIT = 0.125 / 10**6, 0.625 / 10**6  # DynamoDB on demand
REQUEST = 1.00 / 10**6  # HTTP API
NOTICE = 1.00 / 10**6  # EventBridge, an event of 64 KB at most
SECRET_READ = 0.05 / 10**4  # Secrets Manager
ACTIVE_USER = 0.015  # Cognito, Essentials, a month (Lite 0.0055, Plus 0.02)

# Assumed, not measured: what Lambda bills of a warm invocation, what it waits for Stripe, and how many invocations a
# container lives to read its secret for.
GB = 0.5
INVOKED, STRIPE_READ = 0.1, 0.3  # seconds
INVOCATIONS_PER_CONTAINER = 1000


def dollars(counts: Counts) -> float:
    """What this costs once, without Cognito's price for the user."""
    seconds = counts.invocations * INVOKED + counts.stripe_reads * STRIPE_READ
    return (
        counts.events * REQUEST
        + counts.transitions * TRANSITION
        + counts.invocations * (INVOCATION + SECRET_READ / INVOCATIONS_PER_CONTAINER)
        + seconds * GB * GB_SECOND
        + counts.read_units * READ_UNIT
        + counts.write_units * WRITE_UNIT
        + counts.notices * NOTICE
    )


def bench() -> Table:
    rows = [
        (
            name,
            f"{counts.transitions} (goal {GOALS[name]})",
            str(counts.invocations),
            str(counts.stripe_reads),
            ", ".join(f"{times} {operation.removeprefix('Admin')}" for operation, times in counts.cognito.items()),
            f"{counts.read_units:g} + {counts.write_units}",
            f"{10**6 * dollars(counts):,.0f}",
            f"{10**6 * (dollars(counts) + ACTIVE_USER):,.0f}",
        )
        for name, counts in COUNTS.items()
    ]
    columns = (
        "what happens",
        "state transitions",
        "Lambda invocations",
        "reads of Stripe",
        "Cognito (Admin…)",
        "DynamoDB read + write units",
        "$ per million",
        "$ with billed users",
    )
    note = (
        "Counted in real executions, and exact: `tests/workflow/test_costs.py` fails when one changes. A million"
        " of each row; of five events together, a million purchases. Each of these Cognito calls makes the user a"
        " monthly active one: the last column bills another user for every one of the million (Essentials,"
        f" ${ACTIVE_USER}), although whoever signs in that month is billed anyway. Assumed: us-east-1's prices of"
        f" November 2026 without free tiers; Lambda with {GB:g} GB on arm64, {1000 * INVOKED:g} ms an invocation and"
        f" {1000 * STRIPE_READ:g} ms more for a read of Stripe. Not in it: retries of a busy lease ($25 a million),"
        " logs, traces, mail, storage."
    )
    return Table("What an event costs", columns, rows, note)

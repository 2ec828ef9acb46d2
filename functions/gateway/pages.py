"""The orders of an account, a page at a time."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.errors import RequestInvalid
from gateway.ledger import Ledger

PAGE = 100  # orders

_NEXT = re.compile(r"([A-Za-z0-9_.-]{1,200})\|((?:OPEN|DONE)#\d{1,15}#[A-Za-z0-9_]{1,70})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Page:
    """Orders as the ledger keeps them, and what to ask for next; None: this is the last page."""

    orders: list[dict[str, Any]]
    next: str | None


def page_of(parties: Iterable[str], ledger: Ledger, after: str | None, *, fulfilled: bool) -> Page:
    """By party, the latest order first. `after` is the `next` of the page before; RequestInvalid when it is not."""
    names = sorted(parties)
    before = None
    if after is not None:
        found = _NEXT.fullmatch(after)
        if found is None or found[1] not in names or (found[2] < "OPEN#" and not fulfilled):
            raise RequestInvalid("next is not what a page of this address ended with")
        names, before = names[names.index(found[1]) :], found[2]
    ranks: list[tuple[str, str]] = []
    for name in names:
        if len(ranks) > PAGE:
            break
        left = PAGE + 1 - len(ranks)
        ranks += [(name, rank) for rank in ledger.orders(name, fulfilled=fulfilled, before=before, limit=left)]
        before = None
    shown = ranks[:PAGE]
    events = [rank.rpartition("#")[2] for _, rank in shown]
    rows: Mapping[str, dict[str, Any]] = {row["event_id"]: row for row in ledger.rows(events)}
    return Page(
        [rows[event_id] for event_id in events if event_id in rows],
        "|".join(shown[-1]) if len(ranks) > PAGE else None,
    )

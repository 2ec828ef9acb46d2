"""ScanUsers: lists the user pool once, a page at a time, and compares each page with the ledger.

in      the search, with plan
out     {"done": whether that was all, "cursor": token of the next page or null, "users": met so far, "enabled": how
         many of them have access through us}
raises  StripeThrottled, StripeUnavailable, SecretUnavailable, CognitoThrottled, CognitoUnavailable, LedgerThrottled,
        LedgerUnavailable (passing);
        StripeKeyRejected, StripeRejected, CognitoRejected, LedgerRejected (lasting)

Only who does not look as the last run left them is looked at more closely. Whoever is met is marked, so that
CompareShard finds people whose user is gone.
"""

import time
from collections.abc import Mapping
from typing import Any

from gateway import aws
from gateway.billing import billing_with
from gateway.differences import Differences
from gateway.drift import user_suspect
from gateway.ledger import Ledger, Person
from gateway.policy import policy
from gateway.searches import KEPT, Turn
from gateway.secret import Secret
from gateway.settings import one_of, required
from gateway.step import Search, search_step
from gateway.users import Listed, ListedUsers

GOVERN = one_of("ADOPTED_USERS", "grant", "govern") == "govern"

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))
users = ListedUsers(aws.client("cognito-idp"), required("USER_POOL_ID"))
billing = billing_with(Secret(aws.client("secretsmanager"), required("STRIPE_API_KEY_SECRET"), time.monotonic))
differences = Differences(ledger, billing, users, policy(), govern=GOVERN)


@search_step
def handler(search: Search) -> dict[str, Any]:
    before, plan, turn = search.before("scan"), search.plan, Turn()
    token, met, enabled = before.get("cursor"), before.get("users", 0), before.get("enabled", 0)
    while True:
        page, token = users.page(token)
        people = ledger.people(str(each.user.sub) for each in page)
        now = int(time.time())  # not the beginning: a search that began earlier must not take back what is marked here
        ledger.mark_seen(people, now, now + KEPT)
        for each in page:
            person = people.get(str(each.user.sub))
            met += 1
            enabled += each.user.enabled and (each.user.ours or (person is not None and bool(person.granted)))
            if _suspect(each, person):
                found = differences.of_user(each, person)
                if found is not None:
                    ledger.add_drift(search.id, found.subject, found.row(), plan["started"] + KEPT)
        if token is None or turn.over:
            return {"done": token is None, "cursor": token, "users": met, "enabled": enabled}


def _suspect(listed: Listed, person: Person | None) -> bool:
    if person is None:
        return listed.user.ours
    if person.deleted_at is not None:
        return False
    if not person.parties:
        return listed.user.ours or person.held is not None
    facts: Mapping[str, Any] = {
        "granted": person.granted,
        "before": None if GOVERN else person.before,
        "told": person.told,
        "live": person.live,
        "banned": person.held is not None,
    }
    return user_suspect(listed.user, **facts)

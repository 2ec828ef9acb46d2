"""Whether the gateway is set up so that it can work: the Stripe key, the prices, the user pool, the webhook endpoint.

Each check returns what is wrong, in words that tell an operator what to do; nothing personal, and no secret.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from gateway.access import whole_text
from gateway.account import Account
from gateway.errors import SecretUnavailable
from gateway.events import ENDPOINT_TYPES, ENDPOINT_VERSION
from gateway.secret import Secret
from gateway.users import CUSTOM, Pool

_MODES = {"test": "rk_test_", "live": "rk_live_"}


def of_stripe(key: Secret, account: Account, mode: str, *, writes_endpoints: bool, refuses_spare: bool) -> list[str]:
    """What is wrong with the key, so that nothing else can be asked of Stripe."""
    try:
        text = key.latest()
    except SecretUnavailable as error:
        return [f"the Stripe key cannot be read: {error}"]
    problems = _of_key(text, mode) or _of_rights(account, writes_endpoints=writes_endpoints)
    return problems or (of_spare_rights(account) if refuses_spare else [])


def _of_key(key: str, mode: str) -> list[str]:
    """Of its look, without asking Stripe."""
    kind, _, rest = key.partition("_")
    found_mode = rest.partition("_")[0]
    if kind in ("sk", "rk") and found_mode in _MODES and found_mode != mode:
        return [f"the Stripe key is of {found_mode} mode, and StripeMode is {mode}: store a key of the same mode"]
    if kind == "sk":
        return [
            "the Stripe key is a secret key, which may do everything: make a restricted key with the README's rights"
        ]
    if not key.startswith(_MODES[mode]):
        return [f"the Stripe key does not begin with {_MODES[mode]}: store a restricted key"]
    return []


def _of_rights(account: Account, *, writes_endpoints: bool) -> list[str]:
    """What it lacks."""
    missing = account.rights_missing(writes_endpoints=writes_endpoints)
    if "Customers: Read" in missing and "Events: Read" in missing and "Prices: Read" in missing:
        return ["Stripe takes no such key, or it has no rights: store a restricted key of this account"]
    if missing:
        return [f"the Stripe key lacks {', '.join(missing)}: edit the key in Stripe's dashboard"]
    return []


def of_spare_rights(account: Account) -> list[str]:
    """What a key has too much."""
    spare = account.rights_to_spare()
    if spare:
        return [f"the Stripe key has rights that the gateway never needs ({', '.join(spare)}): take them away"]
    return []


def of_prices(account: Account) -> list[str]:
    """Whether anything is sold that gives dapps."""
    unreadable: dict[str, str] = {}
    for page in account.dapps_by_price():
        said = {price: text for price, text in page.items() if text is not None}
        unreadable |= {price: text for price, text in said.items() if whole_text(text) is None}
        if any(whole_text(text) for text in said.values()):
            break
    else:
        return ["no active price is mapped to dapps: add the metadata dapps to a price or product, or set DappPrices"]
    return [f"{price} is mapped to {text[:40]!a} dapps, which is no whole number" for price, text in unreadable.items()]


def of_pool(pool: Pool, *, max_dapps: int, our_clients: Iterable[str]) -> list[str]:
    """Whether a user pool can hold the access, and keeps people from changing their own."""
    settings = pool.settings()
    clients = {client["ClientId"]: client for client in pool.clients()}
    problems = [f"the app client {each} is not of this user pool" for each in our_clients if each not in clients]
    for name, client in clients.items():
        # Without a list, a client may write every standard attribute: the e-mail as well.
        writable = {*client.get("WriteAttributes", ["email"])} & {*CUSTOM, "email"}
        if writable:
            problems.append(f"the app client {name} may write {', '.join(sorted(writable))}: take that away")
    return [*_of_settings(settings), *_of_attributes(settings, max_dapps), *problems]


def _of_settings(settings: Mapping[str, Any]) -> Iterator[str]:
    if settings.get("UsernameAttributes") != ["email"]:
        yield "the user pool does not sign in by e-mail alone, which is settled when it is made: use another"
    if (settings.get("UsernameConfiguration") or {}).get("CaseSensitive", True):
        yield "the user pool is case-sensitive, which is settled when it is made: use another"


def _of_attributes(settings: Mapping[str, Any], max_dapps: int) -> Iterator[str]:
    there = {each["Name"]: each for each in settings.get("SchemaAttributes", [])}
    for name, kind in CUSTOM.items():
        attribute = there.get(name)
        if attribute is None:
            yield f"the user pool has no attribute {name}: add it ({kind}, mutable)"
        elif attribute.get("AttributeDataType") != kind or not attribute.get("Mutable"):
            yield f"the user pool's attribute {name} is no mutable {kind}, and cannot be changed: use another pool"
    bounds = (there.get("custom:num_dapps") or {}).get("NumberAttributeConstraints") or {}
    if int(bounds.get("MaxValue") or max_dapps) < max_dapps or int(bounds.get("MinValue") or 0) > 0:
        yield f"the user pool's custom:num_dapps does not reach from 0 to MaxDapps ({max_dapps}): lower MaxDapps"


def of_endpoint(account: Account, url: str, *, signing_secrets: int) -> list[str]:
    """Whether Stripe tells us what happens."""
    ours = [each for each in account.endpoints() if each["url"] == url and each["status"] == "enabled"]
    if not ours:
        return ["Stripe has no enabled webhook endpoint with this stack's URL: enable or register it"]
    problems = [] if signing_secrets else ["no signing secret (whsec_…) is stored: every event is refused"]
    subscribed = {name for each in ours for name in each["enabled_events"]}
    missing = set() if "*" in subscribed else ENDPOINT_TYPES - subscribed
    if missing:
        problems.append(f"the webhook endpoint does not send {', '.join(sorted(missing))}: subscribe to these")
    versions = {each["api_version"] or "the account's default" for each in ours}
    if ENDPOINT_VERSION not in versions:
        problems.append(f"the webhook endpoint sends API version {', '.join(sorted(versions))}, not {ENDPOINT_VERSION}")
    return problems


def advice(pool: Pool) -> list[str]:
    """What works, and will not for long."""
    settings, found = pool.settings(), []
    mail = (settings.get("EmailConfiguration") or {}).get("EmailSendingAccount", "COGNITO_DEFAULT")
    if mail == "COGNITO_DEFAULT":
        found += ["Cognito's own sender delivers 50 mails a day: configure Amazon SES for the pool before you sell"]
    if not (settings.get("AdminCreateUserConfig") or {}).get("AllowAdminCreateUserOnly"):
        found += [
            "people can sign up to the user pool by themselves, and whoever does with a payer's address gets what they "
            "pay for: confirm nobody who did not prove it"
        ]
    return found

"""Authorize: a Lambda authorizer for any API of yours. Lets in whom billing lets in at this very moment.

in      an authorizer's event: REST API (TOKEN or REQUEST), HTTP API with payload 1.0 or 2.0; the token is in the header
        Authorization, after "Bearer " or alone
out     to payload 2.0 a simple response {"isAuthorized", "context"}, otherwise an IAM policy for the whole stage with
        "context"; context: {"sub", "limit", "used"} of who is let in, {"reason"} of who is not
raises  KeysUnavailable, LedgerThrottled, LedgerUnavailable (passing), LedgerRejected (lasting): API Gateway answers
        500, and keeps no such answer
"""

from collections.abc import Mapping
from typing import Any

from aws_lambda_powertools.metrics import MetricUnit

from gateway import aws
from gateway.defects import harmless
from gateway.errors import TokenRejected
from gateway.ledger import Ledger
from gateway.settings import one_of, optional, required
from gateway.telemetry import count, logger, metrics
from gateway.tokens import Tokens

ISSUER = required("TOKEN_ISSUER")
CLIENTS = frozenset((optional("USER_POOL_CLIENT_IDS") or "").replace(",", " ").split())

# A user waits, and API Gateway no longer than ten seconds.
ledger = Ledger(aws.client("dynamodb", connect_timeout=1, read_timeout=2), required("ORDERS_TABLE"))
tokens = Tokens(
    ISSUER,
    aws.address(ISSUER, "COGNITO_IDENTITY_PROVIDER") + "/.well-known/jwks.json",
    CLIENTS,
    one_of("TOKEN_USE", "access", "id"),
)


@count
@harmless
def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    logger.append_keys(function=context.function_name, request_id=context.aws_request_id, sub=None)
    return _answer(event, **_access(_token(event)))


def _access(text: str) -> dict[str, Any]:
    """Of whom the token is and what they may do; or only the reason why it is worth nothing."""
    try:
        token = tokens.verified(text)
    except TokenRejected as error:
        logger.warning("TokenRejected: %s", error)
        metrics.add_metric("TokenRejected", MetricUnit.Count, 1)
        return {"reason": "token"}
    logger.append_keys(sub=token.sub)
    person = ledger.person(token.sub)
    reason = "unknown" if person is None else person.refusal(token.issued_at)
    if person is None or reason is not None:
        logger.info("refused: %s", reason)
        metrics.add_metric("AccessRefused", MetricUnit.Count, 1)
        return {"reason": reason}
    return {"sub": person.sub, "limit": person.live.dapp_limit, "used": person.used}


def _token(event: Mapping[str, Any]) -> str:
    """The token of a request; empty when it has none, or several: nobody knows which of them the API would believe."""
    headers = [*(event.get("headers") or {}).items()]
    headers += [(name, each) for name, values in (event.get("multiValueHeaders") or {}).items() for each in values]
    found = {value for name, value in headers if name.lower() == "authorization"} or {event.get("authorizationToken")}
    scheme, _, token = str(found.pop() or "").strip().rpartition(" ")
    return token if not found and scheme.strip().lower() in ("", "bearer") else ""


def _answer(event: Mapping[str, Any], **context: Any) -> dict[str, Any]:
    allowed = "sub" in context
    if event.get("version") == "2.0":
        return {"isAuthorized": allowed, "context": context}
    # A kept answer is used for every other method and path of the stage, so it must speak of all of them.
    api, _, rest = str(event["methodArn"]).partition("/")
    return {
        "principalId": context.get("sub", "nobody"),
        "policyDocument": {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow" if allowed else "Deny",
                    "Action": "execute-api:Invoke",
                    "Resource": f"{api}/{rest.partition('/')[0]}/*",
                }
            ],
        },
        "context": context,
    }

"""AddClaims: Cognito's pre-token-generation trigger. Says limit and payment status in the tokens themselves.

in   Cognito's event: version 2 or later for ID and access tokens, version 1 (tier Lite) for ID tokens alone
out  the same with the claims `dapp_limit` (a number; in version 1 text) and `payment_status`, as of the user's
     attributes

Claims are as old as their token. What must be right at this very moment asks the authorizer.
"""

from typing import Any


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    attributes = event["request"]["userAttributes"]
    limit = attributes.get("custom:num_dapps", "")
    limit = int(limit) if limit.isascii() and limit.isdigit() else 0
    status = attributes.get("custom:payment_status", "")
    if str(event["version"]) == "1":
        claims: dict[str, Any] = {"dapp_limit": str(limit), "payment_status": status}
        event["response"] = {"claimsOverrideDetails": {"claimsToAddOrOverride": claims}}
    else:
        claims = {"claimsToAddOrOverride": {"dapp_limit": limit, "payment_status": status}}
        event["response"] = {
            "claimsAndScopeOverrideDetails": {"idTokenGeneration": claims, "accessTokenGeneration": claims}
        }
    return event

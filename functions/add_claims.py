"""AddClaims: Cognito's pre-token-generation trigger. Says limit and payment status in the tokens themselves.

in   Cognito's event: version 2 or later for ID and access tokens, version 1 (tier Lite) for ID tokens alone
out  the same with the claims `dapp_limit` (a number; in version 1 text) and `payment_status`, as of the user's
     attributes; groups stay as they are
raises  nothing but a defect: Cognito tells the user its type and place, and gives them no token

Claims are as old as their token. What must be right at this very moment asks the authorizer.
"""

from typing import Any

from gateway.access import whole_text
from gateway.defects import harmless


@harmless
def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    request = event["request"]
    attributes = request.get("userAttributes") or {}  # a machine that signs in (version 3) has none
    limit = whole_text(attributes.get("custom:num_dapps")) or 0
    status = attributes.get("custom:payment_status") or ""
    # Cognito's guide: groups that are not handed back may be dropped.
    groups = {"groupOverrideDetails": request["groupConfiguration"]} if request.get("groupConfiguration") else {}
    if str(event["version"]) == "1":
        texts = {"dapp_limit": str(limit), "payment_status": status}
        event["response"] = {"claimsOverrideDetails": {"claimsToAddOrOverride": texts, **groups}}
    else:
        claims = {"claimsToAddOrOverride": {"dapp_limit": limit, "payment_status": status}}
        event["response"] = {
            "claimsAndScopeOverrideDetails": {"idTokenGeneration": claims, "accessTokenGeneration": claims, **groups}
        }
    return event

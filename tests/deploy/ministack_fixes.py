"""Corrections of MiniStack 1.5.33: where it differs from AWS in what a deployment of the gateway needs.

`python -m tests.deploy.ministack_fixes` serves it, corrected. The corrections reach into MiniStack's insides, so the
version is pinned, and test_ministack_fixes.py guards each one. The first line of every function says what AWS does.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

import ministack.services.apigateway as apigateway
from ministack.app import main
from ministack.services.cloudformation import provisioners

MINISTACK_VERSION = "1.5.33"
if version("ministack") != MINISTACK_VERSION:
    raise ImportError(
        f"tests/deploy/ministack_fixes.py corrects MiniStack {MINISTACK_VERSION}, not {version('ministack')}: "
        "check every correction against the new version, then change MINISTACK_VERSION"
    )

Properties = dict[str, Any]

_create_api, _update_api = provisioners._apigw_v2_api_create, provisioners._apigw_v2_api_update


def create_api(logical_id: str, properties: Properties, stack: str) -> tuple[str, Properties]:
    """An HTTP API has the routes of the OpenAPI document in its Body."""
    api, attributes = _create_api(logical_id, properties, stack)
    _import(api, properties["Body"])
    return api, attributes


def update_api(api: str, old: Properties, new: Properties, stack: str, logical_id: str) -> tuple[str, Properties]:
    """A changed Body replaces all routes."""
    answer = _update_api(api, old, new, stack, logical_id)
    for routes in (apigateway._routes, apigateway._integrations, apigateway._authorizers):
        routes[api] = {}
    _import(api, new["Body"])
    return answer


def _import(api: str, document: Properties) -> None:
    authorizers = {}
    for name, scheme in document["components"]["securitySchemes"].items():
        if authorizer := scheme.get("x-amazon-apigateway-authorizer"):
            authorizers[name] = _id(
                apigateway._create_authorizer(
                    api,
                    {
                        "name": name,
                        "authorizerType": authorizer["type"].upper(),
                        "authorizerUri": authorizer["authorizerUri"],
                        "identitySource": authorizer["identitySource"],
                        "authorizerPayloadFormatVersion": authorizer["authorizerPayloadFormatVersion"],
                        "authorizerResultTtlInSeconds": int(authorizer["authorizerResultTtlInSeconds"]),
                        "enableSimpleResponses": authorizer["enableSimpleResponses"],
                    },
                ),
                "authorizerId",
            )
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            integration = operation["x-amazon-apigateway-integration"]
            target = _id(
                apigateway._create_integration(
                    api,
                    {
                        "integrationType": integration["type"].upper(),
                        "integrationUri": integration["uri"],
                        "payloadFormatVersion": integration["payloadFormatVersion"],
                    },
                ),
                "integrationId",
            )
            route = {"routeKey": f"{method.upper()} {path}", "target": f"integrations/{target}"}
            for scheme in (name for each in operation.get("security", []) for name in each):
                route |= (
                    {"authorizationType": "CUSTOM", "authorizerId": authorizers[scheme]}
                    if scheme in authorizers
                    else {"authorizationType": "AWS_IAM"}
                )
            apigateway._create_route(api, route)


def _id(answer: tuple[int, Any, bytes], name: str) -> str:
    found: str = json.loads(answer[2])[name]
    return found


_create_secret, _update_secret = provisioners._sm_secret_create, provisioners._sm_secret_update
_delete_secret = provisioners._sm_secret_delete


def create_secret(logical_id: str, properties: Properties, stack: str) -> tuple[str, Properties]:
    """Ref of a secret is its ARN."""
    _, attributes = _create_secret(logical_id, properties, stack)
    return attributes["Arn"], attributes


def update_secret(
    arn: str, old: Properties, new: Properties, stack: str, logical_id: str = ""
) -> tuple[str, Properties]:
    """Ref of a secret is its ARN."""
    _, attributes = _update_secret(_secret_name(arn), old, new, stack, logical_id)
    return attributes["Arn"], attributes


def delete_secret(arn: str, properties: Properties) -> None:
    """Ref of a secret is its ARN."""
    _delete_secret(_secret_name(arn), properties)


def _secret_name(arn: str) -> str:
    return arn.rpartition(":")[2].rpartition("-")[0]


provisioners._RESOURCE_HANDLERS["AWS::ApiGatewayV2::Api"] |= {"create": create_api, "update": update_api}
provisioners._RESOURCE_HANDLERS["AWS::SecretsManager::Secret"] |= {
    "create": create_secret,
    "update": update_secret,
    "delete": delete_secret,
}


if __name__ == "__main__":
    main()

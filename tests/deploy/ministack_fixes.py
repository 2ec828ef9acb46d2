"""Corrections of MiniStack 1.5.33: where it differs from AWS in what a deployment of the gateway needs.

`python -m tests.deploy.ministack_fixes` serves it, corrected. The corrections reach into MiniStack's insides, so the
version is pinned. The first line of every function says what AWS does; without it, test_deployment.py fails.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

import ministack.core.iam_evaluator as iam_evaluator
import ministack.services.apigateway as apigateway
import ministack.services.stepfunctions as stepfunctions
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
            authorizers[name] = _said(
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
            target = _said(
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


def _said(answer: tuple[int, Any, bytes], name: str) -> str:
    """A field of what a service answered."""
    status, _, body = answer
    if status >= 400:
        raise ValueError(body.decode())
    found: str = json.loads(body)[name]
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


# ------------------------------------------------------------------ versions and aliases of state machines


def create_version(logical_id: str, properties: Properties, stack: str) -> tuple[str, Properties]:
    """A version keeps what its machine is now; another revision is another version. Ref is its ARN."""
    asked = {"stateMachineArn": properties["StateMachineArn"], "revisionId": properties["StateMachineRevisionId"]}
    arn = _said(stepfunctions._publish_state_machine_version(asked), "stateMachineVersionArn")
    return arn, {"Arn": arn}


def create_alias(logical_id: str, properties: Properties, stack: str) -> tuple[str, Properties]:
    """An alias leads to a version. Ref is its ARN."""
    asked = {"name": properties["Name"], "routingConfiguration": _routing(properties)}
    arn = _said(stepfunctions._create_state_machine_alias(asked), "stateMachineAliasArn")
    return arn, {"Arn": arn}


def update_alias(arn: str, old: Properties, new: Properties, stack: str) -> tuple[str, Properties]:
    """An alias moves to another version, on AWS little by little."""
    asked = {"stateMachineAliasArn": arn, "routingConfiguration": _routing(new)}
    _said(stepfunctions._update_state_machine_alias(asked), "updateDate")
    return arn, {"Arn": arn}


def delete_alias(arn: str, properties: Properties) -> None:
    """An alias goes with its stack; MiniStack has this call, but no such resource."""
    stepfunctions._delete_state_machine_alias({"stateMachineAliasArn": arn})


def _routing(properties: Properties) -> list[Properties]:
    version = properties["DeploymentPreference"]["StateMachineVersionArn"]
    return [{"stateMachineVersionArn": version, "weight": 100}]


_enforce = iam_evaluator.enforce


def enforce(access_key: str, action: str, service: str, region: str, **more: Any) -> Any:
    """Whoever starts an alias needs the right on the machine; the alias is the key states:StateMachineQualifier."""
    qualifier = more.get("resource_arn", "*").split(":")[7:]
    if action == "states:StartExecution" and qualifier:
        more["resource_arn"] = more["resource_arn"].removesuffix(f":{qualifier[0]}")
        more["service_context"] = {**(more.get("service_context") or {}), "states:StateMachineQualifier": qualifier}
    return _enforce(access_key, action, service, region, **more)


iam_evaluator.enforce = enforce


# ------------------------------------------------------------------ alarms

_alarm = provisioners._cw_metric_alarm_record


def alarm(name: str, properties: Properties) -> Properties:
    """An alarm may watch an expression over several metrics; here it is kept as one that watches the first of them."""
    if "Metrics" in properties:
        first = next(each["MetricStat"] for each in properties["Metrics"] if "MetricStat" in each)
        properties = {**properties, **first["Metric"], "Period": first["Period"], "Statistic": first["Stat"]}
        del properties["Metrics"]
    record: Properties = _alarm(name, properties)
    return record


provisioners._cw_metric_alarm_record = alarm


# ------------------------------------------------------------------ CodeDeploy


def create_nothing(logical_id: str, properties: Properties, stack: str) -> tuple[str, Properties]:
    """CodeDeploy moves an alias of a function little by little, and asks alarms; here it moves at once."""
    return f"{stack}-{logical_id}", {}


def delete_nothing(name: str, properties: Properties) -> None:
    """Nothing was made."""


provisioners._RESOURCE_HANDLERS["AWS::StepFunctions::StateMachineVersion"] = {"create": create_version}
provisioners._RESOURCE_HANDLERS["AWS::StepFunctions::StateMachineAlias"] = {
    "create": create_alias,
    "update": update_alias,
    "delete": delete_alias,
}
for kind in ("AWS::CodeDeploy::Application", "AWS::CodeDeploy::DeploymentGroup"):
    provisioners._RESOURCE_HANDLERS[kind] = {"create": create_nothing, "delete": delete_nothing}
provisioners._RESOURCE_HANDLERS["AWS::ApiGatewayV2::Api"] |= {"create": create_api, "update": update_api}
provisioners._RESOURCE_HANDLERS["AWS::SecretsManager::Secret"] |= {
    "create": create_secret,
    "update": update_secret,
    "delete": delete_secret,
}


if __name__ == "__main__":
    main()

"""template.yaml as CloudFormation sees it: translated by SAM, conditions decided, references resolved."""

from __future__ import annotations

import logging
import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import boto3
import yaml
from samtranslator.metrics.metrics import DummyMetricsPublisher, Metrics
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

ARCHITECTURE = {"aarch64": "arm64", "arm64": "arm64"}.get(platform.machine(), "x86_64")
"""This machine's, as the template names it."""

LOCAL_BUCKET = "local"
"""Stands for the folder of the template in the translated `Code` and `DefinitionS3Location`."""

# SAM's own service has a list of features under test, and misses it here at every alias.
logging.getLogger("samtranslator.feature_toggle.feature_toggle").setLevel(logging.ERROR)

_PATH_PROPERTIES = ("CodeUri", "ContentUri", "DefinitionUri")
_VARIABLE = re.compile(r"\$\{([^!][^}]*)\}")
_REMOVED = object()


class TemplateError(Exception):
    """The template names something that does not exist, or uses what the local stack does not know."""


class _Loader(yaml.SafeLoader):
    """Reads `!Ref`, `!GetAtt` and the other short forms; leaves dates as the text that they are."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def short_form(self, name: str, node: yaml.Node) -> dict[str, Any]:
        if isinstance(node, yaml.ScalarNode):
            value: Any = self.construct_scalar(node)
        elif isinstance(node, yaml.SequenceNode):
            value = self.construct_sequence(node, deep=True)
        else:
            value = self.construct_mapping(node, deep=True)
        if name == "GetAtt" and isinstance(value, str):
            value = value.split(".", 1)
        return {name if name in ("Ref", "Condition") else f"Fn::{name}": value}


_Loader.add_multi_constructor("!", _Loader.short_form)


def read(path: Path) -> dict[str, Any]:
    """A template as it is written, with `!Ref` and the like in their long forms."""
    # The loader above derives from SafeLoader.
    source: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506
    return source


@dataclass(frozen=True)
class Resource:
    """One resource of the translated template. Its properties still hold references, no more `Fn::If`."""

    logical_id: str
    type: str
    properties: dict[str, Any]
    depends_on: tuple[str, ...] = ()


@dataclass(frozen=True)
class Physical:
    """What `Ref` and `Fn::GetAtt` answer for a resource that exists."""

    ref: str
    attributes: Mapping[str, Any] = field(default_factory=dict)


class Template:
    """A translated template with its parameters.

    `resources` holds those whose condition is true. Register each with `created` as soon as it exists;
    `resolve` then answers references to it.
    """

    def __init__(
        self,
        path: Path,
        parameters: Mapping[str, str],
        *,
        region: str = "us-east-1",
        account_id: str = "123456789012",
        stack_name: str = "local",
    ) -> None:
        self.folder = path.parent
        source = read(path)
        self.parameters = _parameter_values(source.get("Parameters", {}), parameters)
        self.pseudo: dict[str, Any] = {
            "AWS::AccountId": account_id,
            "AWS::Partition": "aws",
            "AWS::Region": region,
            "AWS::StackId": f"arn:aws:cloudformation:{region}:{account_id}:stack/{stack_name}/0",
            "AWS::StackName": stack_name,
            "AWS::URLSuffix": "amazonaws.com",
        }
        self.physical: dict[str, Physical] = {}
        self._conditions = source.get("Conditions", {})
        translated = _translate(source, {**self.parameters, "AWS::Region": region}, region)
        self._outputs = translated.get("Outputs", {})
        self.resources = {
            name: Resource(
                name,
                body["Type"],
                self._prune(body.get("Properties", {})),
                tuple([depends] if isinstance(depends, str) else depends),
            )
            for name, body in translated["Resources"].items()
            for depends in [body.get("DependsOn", [])]
            if "Condition" not in body or self.condition(body["Condition"])
        }

    def in_order(self) -> Iterator[Resource]:
        """The resources, each after everything that it refers to."""
        graph = {
            name: {*_references(resource.properties), *resource.depends_on} & self.resources.keys()
            for name, resource in self.resources.items()
        }
        return (self.resources[name] for name in TopologicalSorter(graph).static_order())

    def of_type(self, *types: str) -> list[Resource]:
        """The resources of these CloudFormation types."""
        return [resource for resource in self.resources.values() if resource.type in types]

    def created(self, logical_id: str, ref: str, **attributes: Any) -> None:
        """Remembers what references to this resource mean from now on."""
        self.physical[logical_id] = Physical(ref, attributes)

    def outputs(self) -> dict[str, Any]:
        """The outputs whose condition is true."""
        return {
            name: self.resolve(output["Value"])
            for name, output in self._outputs.items()
            if "Condition" not in output or self.condition(output["Condition"])
        }

    def condition(self, name: str) -> bool:
        """The value of a named condition."""
        if name not in self._conditions:
            raise TemplateError(f"no condition is called {name}")
        return bool(self.resolve(self._conditions[name]))

    def resolve(self, value: Any) -> Any:
        """The value with every intrinsic function replaced by its result."""
        value = self._prune(value)
        if isinstance(value, list):
            return [self.resolve(entry) for entry in value]
        if not isinstance(value, dict):
            return value
        name, argument = _function(value)
        match name:
            case None:
                return {key: self.resolve(entry) for key, entry in value.items()}
            case "Ref":
                return self._ref(argument)
            case "Condition":
                return self.condition(argument)
            case "Fn::GetAtt":
                parts = argument.split(".", 1) if isinstance(argument, str) else argument
                return self._attribute(parts[0], parts[1])
            case "Fn::Sub":
                text, extra = (argument, {}) if isinstance(argument, str) else argument
                return self._substitute(text, self.resolve(extra))
            case "Fn::Join":
                separator, parts = argument
                return separator.join(str(part) for part in self.resolve(parts))
            case "Fn::Split":
                separator, text = argument
                return self.resolve(text).split(separator)
            case "Fn::Select":
                index, entries = argument
                return self.resolve(entries)[int(self.resolve(index))]
            case "Fn::Equals":
                left, right = self.resolve(argument)
                return str(left) == str(right)
            case "Fn::Not":
                return not self.resolve(argument[0])
            case "Fn::And":
                return all(self.resolve(entry) for entry in argument)
            case "Fn::Or":
                return any(self.resolve(entry) for entry in argument)
        raise TemplateError(f"the local stack does not know {name}")

    def _prune(self, value: Any) -> Any:
        """Decides every `Fn::If`; what it turns into `AWS::NoValue` is left out."""
        if isinstance(value, list):
            entries = [self._prune(entry) for entry in value]
            return [entry for entry in entries if entry is not _REMOVED]
        if not isinstance(value, dict):
            return value
        if value == {"Ref": "AWS::NoValue"}:
            return _REMOVED
        if set(value) == {"Fn::If"}:
            condition, yes, no = value["Fn::If"]
            return self._prune(yes if self.condition(condition) else no)
        entries = {key: self._prune(entry) for key, entry in value.items()}
        return {key: entry for key, entry in entries.items() if entry is not _REMOVED}

    def _ref(self, name: str) -> Any:
        if name in self.pseudo:
            return self.pseudo[name]
        if name in self.parameters:
            return self.parameters[name]
        if name in self.physical:
            return self.physical[name].ref
        raise TemplateError(f"Ref to {name}: no parameter, and no resource that exists yet")

    def _attribute(self, logical_id: str, attribute: str) -> Any:
        if logical_id not in self.physical:
            raise TemplateError(f"GetAtt {logical_id}.{attribute}: no resource that exists yet")
        try:
            return self.physical[logical_id].attributes[attribute]
        except KeyError:
            raise TemplateError(f"GetAtt {logical_id}.{attribute}: no such attribute here") from None

    def _substitute(self, text: str, extra: Mapping[str, Any]) -> str:
        def variable(match: re.Match[str]) -> str:
            name = match[1].strip()
            if name in extra:
                return str(extra[name])
            if "." in name and name not in self.pseudo:
                return str(self._attribute(*name.split(".", 1)))
            return str(self._ref(name))

        return _VARIABLE.sub(variable, text).replace("${!", "${")


def _parameter_values(declared: dict[str, Any], given: Mapping[str, str]) -> dict[str, Any]:
    """Given values and defaults, refused as CloudFormation refuses them."""
    if unknown := given.keys() - declared.keys():
        raise TemplateError(f"no parameters of the template: {', '.join(sorted(unknown))}")
    values: dict[str, Any] = {}
    for name, parameter in declared.items():
        if name not in given and "Default" not in parameter:
            raise TemplateError(f"parameter {name} needs a value")
        value = str(given[name] if name in given else parameter["Default"])
        if value not in map(str, parameter.get("AllowedValues", [value])):
            raise TemplateError(f"parameter {name} cannot be {value!r}")
        is_list = parameter["Type"] == "CommaDelimitedList" or parameter["Type"].startswith("List<")
        values[name] = [part.strip() for part in value.split(",")] if is_list else value
    return values


def _translate(source: dict[str, Any], parameters: dict[str, Any], region: str) -> dict[str, Any]:
    """Runs SAM's own translator, with local paths where a packaged template has S3 addresses."""
    functions = source.get("Globals", {}).get("Function", {})
    for properties in [functions, *(r.get("Properties", {}) for r in source["Resources"].values())]:
        for name in _PATH_PROPERTIES:
            if isinstance(properties.get(name), str):
                properties[name] = f"s3://{LOCAL_BUCKET}/{properties[name]}"
    # No managed policies: their names stay what they are.
    metrics = Metrics("local", DummyMetricsPublisher())
    session = boto3.Session(region_name=region)
    translator = Translator({}, Parser(), boto_session=session, metrics=metrics)
    translated: dict[str, Any] = translator.translate(source, parameters)
    metrics.publish()
    return translated


def _function(value: dict[str, Any]) -> tuple[str | None, Any]:
    if len(value) == 1:
        name, argument = next(iter(value.items()))
        if name.startswith("Fn::") or (name in ("Ref", "Condition") and isinstance(argument, str)):
            return name, argument
    return None, None


def _references(value: Any) -> Iterator[str]:
    """Every name that a Ref, GetAtt or Sub mentions (parameters and pseudo parameters too)."""
    if isinstance(value, list):
        for entry in value:
            yield from _references(entry)
    elif isinstance(value, dict):
        name, argument = _function(value)
        if name == "Ref":
            yield argument
        elif name == "Fn::GetAtt":
            yield argument.split(".")[0] if isinstance(argument, str) else argument[0]
        elif name == "Fn::Sub":
            text = argument if isinstance(argument, str) else argument[0]
            yield from (variable.strip().split(".")[0] for variable in _VARIABLE.findall(text))
        if name != "Ref":
            for entry in value.values():
                yield from _references(entry)

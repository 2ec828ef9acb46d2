"""Handlers for tests in this process."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests.local.template import Template

REPOSITORY = Path(__file__).parents[1]


def imported(function: str) -> ModuleType:
    """A function's module, as a copy of our own, with exactly the environment that template.yaml gives it."""
    template = Template(REPOSITORY / "template.yaml", {})
    for name in template.resources:
        template.created(name, name, Arn=f"arn:aws:local:us-east-1:123456789012:{name}")
    properties = template.resolve(template.resources[function].properties)
    file = properties["Handler"].removesuffix(".handler")
    spec = importlib.util.spec_from_file_location(f"unit_{file}", REPOSITORY / "functions" / f"{file}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patched:
        for name, value in properties["Environment"]["Variables"].items():
            patched.setenv(name, value)
        spec.loader.exec_module(module)
    return module

"""What ships may be shipped, its licence texts come along, and the README says so."""

from email.message import Message
from importlib.metadata import Distribution
from types import SimpleNamespace
from typing import Any

import pytest

from tests.licences import README, allowed, licence, licences, shipped, texts, written

TEXT = README.read_text(encoding="utf-8")


def package(**headers: Any) -> Distribution:
    """One with this metadata."""
    metadata = Message()
    metadata["Name"] = "another"
    for name, values in headers.items():
        for value in values if isinstance(values, list) else [values]:
            metadata[name.replace("_", "-")] = value
    found: Any = SimpleNamespace(metadata=metadata, files=None)
    return found  # type: ignore[no-any-return]


def test_everything_that_ships_is_under_a_licence_that_is_allowed() -> None:
    found = licences()
    assert {"stripe", "PyJWT", "cryptography", "aws_lambda_powertools"} <= found.keys()
    assert {name: each for name, each in found.items() if not allowed(each)} == {}


def test_everything_that_ships_brings_its_licence_text() -> None:
    assert [each.metadata["Name"] for each in shipped() if not texts(each)] == []
    assert texts(package(License="MIT")) == []


def test_the_readme_says_what_ships_today() -> None:
    assert written(TEXT, licences()) == TEXT, "run make licences"


def test_another_package_or_licence_makes_the_readme_stale() -> None:
    assert written(TEXT, licences() | {"another": "MIT"}) != TEXT
    assert written(TEXT, licences() | {"stripe": "Apache-2.0"}) != TEXT


def test_a_readme_without_a_place_for_them_is_found() -> None:
    with pytest.raises(ValueError, match="no place"):
        written("", {})


@pytest.mark.parametrize(
    ("expression", "good"),
    [
        ("MIT", True),
        ("Apache-2.0 OR BSD-3-Clause", True),
        ("GPL-3.0-only OR MIT", True),
        ("MIT AND PSF-2.0", True),
        ("MIT AND GPL-3.0-only", False),
        ("GPL-3.0-only", False),
        ("AGPL-3.0-or-later OR LGPL-2.1-only", False),
        ("Proprietary", False),
    ],
)
def test_a_licence_is_allowed_when_one_may_be_chosen_that_is(expression: str, good: bool) -> None:
    assert allowed(expression) is good


MIT = "License :: OSI Approved :: MIT License"


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({"License_Expression": "BSD-3-Clause", "License": "MIT"}, "BSD-3-Clause"),
        ({"License": "MIT", "Classifier": ["Topic :: Security", MIT]}, "MIT"),
        ({"License": "Permission is hereby granted, free of charge", "Classifier": MIT}, "MIT"),
        ({"Classifier": MIT}, "MIT"),
    ],
)
def test_a_licence_is_what_the_metadata_says(headers: dict[str, Any], found: str) -> None:
    assert licence(package(**headers)) == found


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"License": "see LICENSE.txt"},
        {"Classifier": [MIT, "License :: OSI Approved :: Apache Software License"]},
        {"Classifier": "License :: Other/Proprietary License"},
    ],
)
def test_a_package_that_does_not_say_it_is_found(headers: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="another does not say"):
        licence(package(**headers))

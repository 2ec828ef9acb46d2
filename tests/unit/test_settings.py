"""gateway.settings: a missing or wrong variable names itself at import, not somewhere later."""

from collections.abc import Callable

import pytest

from gateway.settings import SettingMissing, one_of, optional, required, whole_number


def test_a_variable_is_read_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SETTING", " text ")
    assert required("SETTING") == " text "


def colour(name: str) -> str:
    return one_of(name, "red", "green")


@pytest.mark.parametrize("read", [required, whole_number, colour])
def test_an_unset_or_empty_variable_is_named(monkeypatch: pytest.MonkeyPatch, read: Callable[[str], object]) -> None:
    monkeypatch.delenv("SETTING", raising=False)
    with pytest.raises(SettingMissing, match="SETTING is not set"):
        read("SETTING")
    monkeypatch.setenv("SETTING", "")
    with pytest.raises(SettingMissing, match="SETTING is not set"):
        read("SETTING")


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("72", 72), ("-1", -1), ("1000000", 1_000_000)])
def test_a_whole_number_is_read(monkeypatch: pytest.MonkeyPatch, text: str, number: int) -> None:
    monkeypatch.setenv("SETTING", text)
    assert whole_number("SETTING") == number


@pytest.mark.parametrize("text", ["five", "1.5", "1e3", "0x10", " ", "9" * 5_000])
def test_what_is_no_whole_number_is_named(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SETTING", text)
    with pytest.raises(SettingMissing, match="SETTING is not a whole number"):
        whole_number("SETTING")


@pytest.mark.parametrize("text", ["red", "green"])
def test_one_of_some_words_is_read(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SETTING", text)
    assert colour("SETTING") == text


@pytest.mark.parametrize("text", ["blue", "Red", "red ", "red, green"])
def test_any_other_word_is_named_with_those_that_may_be(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SETTING", text)
    with pytest.raises(SettingMissing, match="SETTING is none of red, green"):
        colour("SETTING")


@pytest.mark.parametrize(("text", "value"), [(None, None), ("", None), (" ", " "), ("arn:topic", "arn:topic")])
def test_an_optional_variable_may_be_missing(
    monkeypatch: pytest.MonkeyPatch, text: str | None, value: str | None
) -> None:
    monkeypatch.delenv("SETTING", raising=False)
    if text is not None:
        monkeypatch.setenv("SETTING", text)
    assert optional("SETTING") == value

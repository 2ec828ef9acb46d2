"""gateway.settings: a missing or wrong variable names itself at import, not somewhere later."""

from collections.abc import Callable

import pytest

from gateway.settings import SettingMissing, required, whole_number


def test_a_variable_is_read_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SETTING", " text ")
    assert required("SETTING") == " text "


@pytest.mark.parametrize("read", [required, whole_number])
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

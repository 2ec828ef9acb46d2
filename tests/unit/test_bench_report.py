"""The tables that `make bench` makes: on a terminal, and between the marks of the README."""

from pathlib import Path

import pytest

from tests.bench import measure, report
from tests.bench.measure import Bar, Round, Table, Times

SPEED = Table("Speed", ("way", "time"), [("ours", "9 ms"), ("the usual way", "12 ms | 13 ms")], "On one machine.")
COSTS = Table("Costs", ("event", "$"), [("renewal", "138")], bars=[Bar("renewal", 1.0)])


def test_a_terminal_shows_columns_under_each_other() -> None:
    assert report.text(SPEED) == (
        "Speed\n\nway            time\nours           9 ms\nthe usual way  12 ms | 13 ms\n\nOn one machine.\n"
    )
    assert report.text(COSTS) == "Costs\n\nevent    $\nrenewal  138\n"


def test_the_readme_shows_a_table_with_its_note() -> None:
    assert report.markdown(SPEED) == (
        "**Speed**\n\n| way | time |\n| --- | --- |\n| ours | 9 ms |\n| the usual way | 12 ms \\| 13 ms |\n\n"
        "On one machine."
    )
    assert report.markdown(COSTS) == "**Costs**\n\n| event | $ |\n| --- | --- |\n| renewal | 138 |"


def test_only_what_is_between_the_marks_is_written_anew(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before\n{report.BEGIN}\nof last year\n{report.END}\nafter\n", encoding="utf-8")
    report.write([SPEED, COSTS], page)
    first = page.read_text(encoding="utf-8")
    assert first == (
        f"before\n{report.BEGIN}\n{report.markdown(SPEED)}\n\n{report.markdown(COSTS)}\n{report.END}\nafter\n"
    )
    report.write([SPEED, COSTS], page)
    assert page.read_text(encoding="utf-8") == first


@pytest.mark.parametrize("text", ["", report.BEGIN, report.END, f"{report.END} {report.BEGIN}"])
def test_a_page_without_the_marks_is_left_as_it_is(tmp_path: Path, text: str) -> None:
    page = tmp_path / "README.md"
    page.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"README\.md has no <!-- bench -->"):
        report.write([COSTS], page)
    assert page.read_text(encoding="utf-8") == text


def test_a_ratio_is_that_of_the_medians_and_its_range_that_of_the_rounds() -> None:
    ours = Times((Round((0.2, 0.4, 0.3)), Round((0.5, 0.5, 0.5))))
    floor = Times((Round((0.1, 0.1, 0.1)), Round((0.5, 0.5, 0.5))))
    assert ours.against(floor) == (pytest.approx(0.45 / 0.3), "1.00-3.00")
    assert str(ours) == "450 ± 50 ms"
    assert str(Times((Round((0.0011, 0.0011, 0.0012)),))) == "1.10 ± 0.00 ms"


def test_of_first_answers_the_usual_cpu_and_the_highest_memory_count() -> None:
    times = Times((Round((1.0,), (0.1, 0.2, 0.9), 10), Round((1.0,), (0.3, 0.3), 30)))
    assert (times.cpu, times.memory) == (0.3, 30)


@pytest.mark.parametrize(("goal", "text"), [(None, "1.34"), (1.35, "1.34 (goal 1.35)"), (1.0, "1.34 (goal 1)")])
def test_a_goal_stands_beside_its_ratio(goal: float | None, text: str) -> None:
    assert measure.shown(1.339, goal) == text

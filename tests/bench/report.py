"""Tables of benchmarks as text, as Markdown in the README, and their ratios as a plot."""

from collections.abc import Sequence
from pathlib import Path

from tests.bench.measure import Bar, Table

BEGIN, END = "<!-- bench -->", "<!-- /bench -->"


def text(table: Table) -> str:
    """For a terminal: columns under each other."""
    lines = [table.columns, *table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([table.title, "", *shown, *(["", table.note] if table.note else []), ""])


def markdown(table: Table) -> str:
    """For the README."""
    lines = [table.columns, ("---",) * len(table.columns), *table.rows]
    rows = ["| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines]
    return "\n".join([f"**{table.title}**", "", *rows, *(["", table.note] if table.note else [])])


def write(tables: Sequence[Table], page: Path) -> None:
    """Put the tables between the marks of a page."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page.name} has no {BEGIN} … {END}")
    shown = "\n\n".join(markdown(table) for table in tables)
    page.write_text(f"{before}{BEGIN}\n{shown}\n{END}{after}", encoding="utf-8")


def draw(tables: Sequence[Table], file: Path) -> None:
    """Every ratio as a bar, and its goal as a line across it."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    bars: list[Bar] = [bar for table in tables for bar in table.bars][::-1]
    # The same numbers give the same file, and text stays text.
    mpl.rcParams.update({"svg.hashsalt": "bench", "svg.fonttype": "none", "font.family": "sans-serif"})
    figure = Figure(figsize=(9, 0.8 + 0.42 * len(bars)), layout="constrained")
    axes = figure.subplots()
    shown = axes.barh([bar.label for bar in bars], [bar.ratio for bar in bars], height=0.6, color="#4c78a8")
    axes.bar_label(shown, fmt="%.2f", padding=4)
    goals = [(place, bar.goal) for place, bar in enumerate(bars) if bar.goal is not None]
    for place, goal in goals:
        axes.vlines(goal, place - 0.42, place + 0.42, color="#e45756", linewidth=2)
    axes.axvline(1, color="#888888", linewidth=0.8, linestyle=":")
    axes.set_xlabel("ratio; the red line is the goal (at most)")
    axes.set_xlim(0, 1.12 * max([1, *(bar.ratio for bar in bars), *(goal for _, goal in goals)]))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, format="svg", metadata={"Date": None})

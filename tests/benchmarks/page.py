"""docs/benchmarks.md between its marks, and its pictures, from docs/benchmarks.json. What stands
outside is by hand."""

import re
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
from timing import Row

from ppl_vae.diagnostics.axes import BLUE, VERMILION
from ppl_vae.runtime.files import write_whole

LABEL = 44  # characters of a line
HEAD = "| work | against | ratio | quartiles | ours, theirs | rounds | target | met |"


def write(results: dict, page: Path, folder: Path) -> None:
    """Renew tables and pictures of all benchmarks that have figures and marks in the page."""
    text = page.read_text(encoding="utf-8")
    for name, result in results.items():
        rows = [Row(**row) for row in result["rows"]]
        body = [facts(result["taken"]), "", *table(rows)]
        drawn = [row for row in rows if row.median is not None and not row.unit]
        if len(drawn) > 1:
            draw(drawn, result["title"], folder / "images" / f"benchmark_{name}.png")
            body += ["", f"![{result['title']}](images/benchmark_{name}.png)"]
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        if begin not in text:
            raise ValueError(
                f"{page.name} has no {begin} ... {end}: say there where the figures go"
            )
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        text = pattern.sub(lambda _, parts=(begin, *body, end): "\n".join(parts), text)
    write_whole(folder / "benchmarks.md", lambda path: path.write_text(text, encoding="utf-8"))


def facts(taken: dict) -> str:
    return (
        f"{taken['date']}: {taken['processor']}, {taken['cores']} cores, torch on "
        f"{taken['threads']}; "
        f"Python {taken['python']}, torch {taken['torch']}, Pyro {taken['pyro']}, NumPy "
        f"{taken['numpy']}, "
        f"ppl_vae {taken['ppl_vae']}; `{taken['command']}`."
    )


def table(rows: list[Row]) -> list[str]:
    return [
        HEAD,
        "|---|---|---|---|---|---|---|---|",
        *(f"| {' | '.join(cells(row))} |" for row in rows),
    ]


def cells(row: Row) -> list[str]:
    """One line of the table; what was not measured says why."""
    if row.median is None:
        return [
            row.work,
            row.against,
            f"not measured: {row.not_measured}",
            "",
            "",
            "",
            target(row),
            "",
        ]
    low, high = row.quartiles
    sides = ", ".join(size(median, row.medians_unit) for median in row.medians or ())
    met = "" if row.is_met is None else "yes" if row.is_met else f"no, by {excess(row):.1%}"
    figures = [
        f"{row.median:.2f} {row.unit}".strip(),
        f"{low:.2f} to {high:.2f}",
        sides,
        str(row.rounds),
    ]
    return [row.work, row.against, *figures, target(row), met]


def target(row: Row) -> str:
    if None not in (row.at_least, row.at_most):
        return f"{row.at_least:.2f} to {row.at_most:.2f}"
    if row.at_least is not None:
        return f">= {row.at_least:.2f}"
    return "" if row.at_most is None else f"<= {row.at_most:.2f} {row.unit}".strip()


def excess(row: Row) -> float:
    """By what share the target was missed."""
    is_above = row.at_most is not None and row.median > row.at_most
    return row.median / row.at_most - 1 if is_above else 1 - row.median / row.at_least


def size(value: float, unit: str) -> str:
    """Seconds with a prefix; other units as they are."""
    smaller = ((1, "s"), (1e3, "ms"), (1e6, "µs"), (1e9, "ns")) if unit == "s" else ()
    for factor, name in smaller:
        if value * factor >= 1:
            return f"{value * factor:.3g} {name}"
    return f"{value:,.0f} {unit}"


def draw(rows: list[Row], title: str, path: Path) -> None:
    """Medians with quartiles and targets; cost curves where there are any."""
    curves = [row.series for row in rows if row.series]
    most = max(label(row).count("\n") for row in rows)
    size = (8 + 4 * bool(curves), 1.4 + (0.25 + 0.17 * most) * max(len(rows), 4))
    figure, axes = plt.subplots(
        1, 1 + bool(curves), figsize=size, layout="constrained", squeeze=False
    )
    dots(axes[0, 0], rows)
    axes[0, 0].set_title(f"{title}: {direction(rows)}", loc="left", fontsize="medium")
    if curves:
        costs(axes[0, 1], curves)
    write_whole(path, lambda temporary: figure.savefig(temporary, dpi=120))
    plt.close(figure)


def direction(rows: list[Row]) -> str:
    """Which ratios are good, by the targets of the rows."""
    sides = {(row.at_least is not None, row.at_most is not None) for row in rows}
    sides.discard((False, False))
    if len(rows) < 3:
        return "aims as marked"
    if sides == {(True, True)}:
        return "near 1 is the aim"
    return "larger is better" if sides == {(True, False)} else "smaller is better"


def dots(ax: plt.Axes, rows: list[Row]) -> None:
    for y, row in enumerate(rows):
        colour = VERMILION if row.is_met is False else BLUE
        ax.plot(row.quartiles, (y, y), color=colour, linewidth=2)
        ax.plot(row.median, y, "o", color=colour)
        for bound, marker in ((row.at_least, ">"), (row.at_most, "<")):
            if bound is not None:
                ax.plot(bound, y, marker, color="black", markersize=7, fillstyle="none")
    ax.axvline(1.0, color="grey", linewidth=0.8, linestyle=":")
    ax.set_yticks(range(len(rows)), [label(row) for row in rows], fontsize=8)
    ax.set_ylim(len(rows) - 0.5, -0.5)  # markers stay off the border
    ax.set_xlim(left=0)
    ax.set_xlabel("ratio, with quartiles\n(< aim: at most; > aim: at least; orange: missed)")


def label(row: Row) -> str:
    """Work and what it is compared with, below each other."""
    names = row.work, f"/ {row.against.split(' (')[0]}"
    return "\n".join(textwrap.fill(name, LABEL) for name in names)


def costs(ax: plt.Axes, curves: list[dict[str, list[float]]]) -> None:
    for curve, marker, colour in zip(curves, "os", (BLUE, VERMILION), strict=False):
        (_, sizes), (name, values) = curve.items()
        ax.plot(sizes, [1e6 * value for value in values], marker, ls="-", color=colour, label=name)
    ax.set(xscale="log", xlabel="number of rows N", ylabel="time per row (µs)")
    ax.set_ylim(bottom=0)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)

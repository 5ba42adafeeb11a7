"""Reconstructions of rows, and samples from the prior."""

from typing import Any

from ppl_vae.diagnostics import plot_reconstructions, plot_samples, plot_table
from ppl_vae.diagnostics.report_plots import as_images, name_features
from ppl_vae.diagnostics.table_plot import MOST_COLUMNS
from ppl_vae.programs.modules import evaluating, place
from ppl_vae.report.attempts import reasons
from ppl_vae.report.diagnosis import Diagnosis, Findings
from ppl_vae.report.elements import SIZE, Panel, Table, draw, shown_value
from ppl_vae.runtime.seeding import seeded

NUM_RECONSTRUCTED = 12
NUM_PANELS = 6  # of rows that are not pictures
NUM_DRAWN = 200  # for a cell of a table
NUM_SAMPLES = 60
NUM_SHOWN = 8  # drawn rows of a table
PANEL = 1.6  # inches, of a column of a table
CELL = 0.64  # inches, of a picture in a row of pictures


def _reconstructions(found: Findings) -> Panel:
    """Rows beside their reconstructions."""
    rows = found.subject.rows
    if "x" in rows.columns:
        return _reconstructed_table(found)
    if rows.image_shape is None:
        some, size = rows[:NUM_PANELS], SIZE
        alts: Any = [
            f"Features of row {name}, and dots for their reconstruction."
            for name in some.coords[some.dims[0]]
        ]
        says = (
            "Bars (or a grey line): observed. Dots (or a red line): E[E[x | z]] with z from the "
            "guide."
        )
    else:
        some = rows[:NUM_RECONSTRUCTED]
        height, width = as_images(some).shape[1:3]
        size = (0.9 + CELL * len(some), 0.2 + 2 * CELL * height / width)
        alts = f"{len(some)} observations in the upper row, and below each its reconstruction."
        note = " Blue is missing." * bool(some.x.isnan().any())
        says = f"E[E[x | z]] with z drawn from the guide.{note}"

    def plot(axes: Any) -> None:
        seed = found.subject.seed
        with reasons(ValueError):
            plot_reconstructions(*found.programs, some, len(some), seed=seed, axes=axes)

    pictures = draw(plot, alts, size=size, inverts=rows.image_shape is None)
    return Panel([says], pictures=pictures)


def _reconstructed_table(found: Findings) -> Panel:
    """Rows of a table beside what the model draws for them, a table line for each column.

    Unlike columns have no axis in common.
    """
    model, guide = found.pair
    rows = found.subject.rows[:NUM_PANELS]
    placed = place(rows, model, guide)
    with evaluating(model, guide), seeded(found.subject.seed):
        z = guide.encode(placed.x, placed.context).sample((NUM_DRAWN,))
        drawn = model.decode(z, placed.context).sample().cpu()
    observed = rows.to_frame()
    frame = rows.to_frame(drawn)
    cells = []
    for name, kind in zip(rows.columns["x"], rows.kinds, strict=True):
        values = [shown_value(each) for each in observed[name]]
        draws = [frame[name].iloc[row :: len(rows)] for row in range(len(rows))]
        fitted = [_summary(each, kind) for each in draws]
        pairs = zip(values, fitted, strict=True)
        cells.append([name, *(f"{value} / {said}" for value, said in pairs)])
    says = [
        "Each cell: observed / drawn with z from the guide: the median of "
        f"{NUM_DRAWN} draws, or the most frequent level and its share."
    ]
    names = map(str, rows.coords[rows.dims[0]])
    return Panel(says, tables=[Table(("", *names), cells)])


def _summary(draws: Any, kind: str) -> str:
    """The middle of draws of a column."""
    if kind in ("boolean", "category", "ordered"):
        shares = draws.value_counts(normalize=True)
        return f"{shares.index[0]} ({shares.iloc[0]:.0%})"
    return f"{draws.median():.3g}"


def _samples(found: Findings) -> Panel:
    """What the decoder makes of draws from the prior; rows of a table beside drawn ones."""
    rows, model = found.subject.rows, found.pair[0]
    if "x" in rows.columns:
        return _table(found)
    context = place(rows, model).context
    count = NUM_SAMPLES
    says = []
    if context is not None:
        count = min(count, len(rows))
        context = context[:count]
        says = [f"With the covariates of the first {count} diagnosed rows."]
    options: dict[str, Any] = {"context": context, "seed": found.subject.seed}

    def plot(ax: Any) -> None:
        plot_samples(model, count, rows.image_shape, **options, ax=ax)
        if len(rows.dims) == 2 and rows.image_shape is None:
            name_features(ax, rows.coords[rows.dims[1]])

    alt = f"{count} samples, decoded from draws from the prior."
    pictures = draw(plot, alt, size=(6.4, 4.2), inverts=rows.image_shape is None)
    return Panel(says, pictures=pictures)


def _table(found: Findings) -> Panel:
    """Rows of a table beside as many drawn ones."""
    rows, model = found.subject.rows, found.programs[0]
    context = place(rows, model).context
    with seeded(found.subject.seed):
        drawn = model.sample(len(rows), context).cpu().numpy()
    frame = rows.to_frame(drawn)
    cells = [
        [str(place + 1), *map(shown_value, row)]
        for place, row in enumerate(frame.head(NUM_SHOWN).itertuples(index=False))
    ]
    shown = Table(["drawn", *map(str, frame.columns)], cells, "Drawn rows")
    names = list(rows.columns["x"])[:MOST_COLUMNS]
    size = len(names)

    def plot(ax: Any) -> None:
        ax.set_axis_off()
        plot_table(rows, drawn, names, ax.figure.subplots(size, size))

    says = [f"Grey: {len(rows)} rows; blue: as many drawn from the model."]
    if len(rows.columns["x"]) > len(names):
        says.append(f"The first {len(names)} of {len(rows.columns['x'])} columns.")
    alt = f"Histograms of {', '.join(names)} and of drawn rows, and scatter plots of each pair."
    pictures = draw(plot, alt, size=(PANEL * size, PANEL * size))
    return Panel(says, pictures=pictures, tables=[shown])


SECTION = "What it learned"
RECONSTRUCTIONS = Diagnosis("reconstructions", "Reconstructions", SECTION, panel=_reconstructions)
SAMPLES = Diagnosis("samples", "Samples", SECTION, panel=_samples)

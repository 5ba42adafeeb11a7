"""Contrasts: the two largest groups of labelled rows, compared in latents and features."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from ppl_vae.report.attempts import NotApplicable, reasons
from ppl_vae.report.diagnosis import Diagnosis, Findings
from ppl_vae.report.elements import SIZE, Panel, Table, draw
from ppl_vae.runtime.checks import one_line
from ppl_vae.runtime.text import counted
from ppl_vae.tasks.contrasts import Contrast, GroupDifferences, contrast, plot_contrast

FEWEST = 5  # rows of a group
NUM_SAMPLES = 200
NUM_PERMUTATIONS = (1999, 39_999)  # so many at least and at most
ALPHA = 0.05
SHOWN = 6  # lines of a table
COLUMNS = ("", "difference", "95 % interval", "in sds", "p", "adjusted p")


@dataclass(frozen=True)
class Compared:
    """A contrast, and what it warned of."""

    found: Contrast
    sizes: tuple[int, int]
    warned: tuple[str, ...]


def _contrast(found: Findings) -> Compared:
    import pandas as pd

    rows = found.subject.rows
    if rows.labels is None:
        raise NotApplicable("the rows have no labels")
    labels = np.asarray(rows.labels, dtype=object)
    counts = pd.Series(labels).value_counts()[:2]
    if len(counts) < 2 or counts.min() < FEWEST:
        raise NotApplicable(f"fewer than two labels have {FEWEST} rows each")
    inside = np.array([each in counts.index for each in labels])
    # The smallest p-value has to be a discovery among so many features.
    wanted = int(np.clip(2 * rows.event_shape.numel() / ALPHA, *NUM_PERMUTATIONS))
    options: dict[str, Any] = {"num_samples": NUM_SAMPLES, "num_permutations": wanted}
    options |= {"reference": counts.index[0], **found.options}
    with warnings.catch_warnings(record=True) as caught, reasons(ValueError):
        warnings.simplefilter("always")
        compared = contrast(*found.programs, rows[inside], labels[inside], **options)
    warned = tuple(one_line(each.message) for each in caught)
    return Compared(compared, tuple(counts.tolist()), warned)


def _panel(found: Findings) -> Panel | None:
    """P-values against differences, and the smallest p-values."""
    if found.subject.rows.labels is None:
        return None
    compared = found["contrasts"]
    contrasted = compared.found
    first, second = contrasted.design.names
    name = found.subject.rows.label_name
    says = [
        f"The labels with most rows, {second} ({compared.sizes[1]}) minus {first} "
        f"({compared.sizes[0]}): permutation p-values, adjusted by max-T over latents and by "
        "Benjamini and Hochberg over features.",
        f"They hold if the model was trained without knowledge of {name}. Features are those that "
        "the model predicts from z.",
        *compared.warned,
    ]
    alts = [
        f"Permutation p-values against the differences of the {counted(len(part), part.what[:-1])}"
        f", of which {(part.adjusted() <= ALPHA).sum()} are discoveries."
        for part in (contrasted.latents, contrasted.features)
    ]
    with warnings.catch_warnings():
        # With few labellings none can be found; the dotted line shows it.
        warnings.filterwarnings("ignore", "no discovery")
        pictures = draw(lambda axes: plot_contrast(contrasted, ALPHA, axes), alts, size=SIZE)
    tables = [_table(part) for part in (contrasted.latents, contrasted.features)]
    return Panel(says, pictures=pictures, tables=tables)


def _table(differences: GroupDifferences) -> Table:
    """The differences with the smallest p-values."""
    order = differences.order[:SHOWN]
    cells = [
        (
            str(name),
            f"{row['difference']:.3g}",
            f"{row['low']:.3g} to {row['high']:.3g}",
            f"{row['standardised']:.2f}",
            f"{row['p_value']:.2g}",
            f"{row['adjusted']:.2g}",
        )
        for name, row in differences.to_frame().iloc[order].iterrows()
    ]
    caption = f"{len(cells)} of {counted(len(differences), differences.what[:-1])}, by p-value"
    return Table(COLUMNS, cells, caption)


def _tree(found: Findings) -> dict[str, xr.Dataset]:
    frame = found["contrasts"].found.to_frame().reset_index()
    return {"contrasts": xr.Dataset.from_dataframe(frame)}


CONTRASTS = Diagnosis(
    "contrasts",
    "Contrast of two groups",
    "What it can be used for",
    compute=_contrast,
    panel=_panel,
    page="howto/contrasts.md",
    tree=_tree,
)

"""Missing values: which are missing together, and whether hidden ones are imputed correctly."""

import warnings

import numpy as np

from ppl_vae.report.attempts import NotApplicable, reasons
from ppl_vae.report.diagnoses.predictive import LIKELIHOOD, judged, trusted
from ppl_vae.report.diagnosis import Diagnosis, Findings
from ppl_vae.report.elements import SIZE, Panel, Table, draw
from ppl_vae.report.rules import Measured, Rule
from ppl_vae.runtime.text import counted
from ppl_vae.tasks.imputation import Overimputation, overimpute, plot_overimputation
from ppl_vae.tasks.imputation.overimputation import has_own_total

SHARE = 0.2  # of the observed entries of each column
MOST_PATTERNS = 10
MOST_COLUMNS = 30


def _patterns(found: Findings) -> list[tuple[tuple[int, ...], int]]:
    """Columns that are missing together, and in how many rows, the most frequent first."""
    rows = found.subject.rows
    if not rows.has_missing:
        raise NotApplicable("no value is missing")
    missing = rows.x.isnan().reshape(len(rows), -1).cpu().numpy()
    patterns, counts = np.unique(missing, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [(tuple(np.flatnonzero(patterns[i]).tolist()), int(counts[i])) for i in order]


def _missing(found: Findings) -> Panel | None:
    """How often which columns are missing together."""
    rows = found.subject.rows
    if not rows.has_missing:
        return None
    patterns = found["missing"]
    names = rows.feature_names or tuple(map(str, np.ndindex(*rows.event_shape)))
    cells = [
        (_listed([names[place] for place in places]), str(count), f"{count / len(rows):.1%}")
        for places, count in patterns[:MOST_PATTERNS]
    ]
    which = "All patterns."
    if len(cells) < len(patterns):
        which = f"The {len(cells)} most frequent of {len(patterns)} patterns."
    shares = rows.x.isnan().double().mean(0).reshape(-1).cpu().numpy()
    worst = np.argsort(-shares, kind="stable")[:MOST_COLUMNS]
    by_column = [(names[place], f"{shares[place]:.1%}") for place in worst if shares[place]]
    says = [
        f"{np.mean(shares):.1%} of the values of the diagnosed rows are missing, in "
        f"{counted(len(patterns), 'pattern')}.",
        "Draws of them assume that values are missing at random: whether a value is missing may "
        "depend on the observed values of its row, but not on the value itself.",
    ]
    tables = [
        Table(("missing together", "rows", "share"), cells, which),
        Table(("column", "missing"), by_column, kind="facts"),
    ]
    return Panel(says, tables=tables)


def _listed(names: list[str]) -> str:
    """The names of a pattern."""
    if len(names) > MOST_COLUMNS:
        return f"{', '.join(names[:MOST_COLUMNS])} and {len(names) - MOST_COLUMNS} more"
    return ", ".join(names) or "nothing"


def _overimputation(found: Findings) -> Overimputation:
    rows = found.subject.rows
    if not rows.has_missing:
        raise NotApplicable("no value is missing")
    if rows.event_shape.numel() == 1:
        raise NotApplicable("each row has one entry, so there are no others to impute it from")
    if has_own_total(found.programs[0], rows):
        raise NotApplicable("the parts add up to a total, which hidden parts would change")
    options = {"share": SHARE, "method": "importance", **found.options}
    with warnings.catch_warnings(), reasons(ValueError):
        # The rule counts rows whose weights are bad.
        warnings.filterwarnings("ignore", ".* draws that are not reliable")
        return overimpute(*found.programs, rows, **options)


def imputed_p(found: Findings) -> Measured:
    """Smallest corrected p-value of the columns."""
    result = found["overimputation"]
    pit = trusted(result.pit)
    worst = result.worst[0]
    inside = result.coverage(0.9)[worst]
    said = f"of {result.names[worst]}: {inside:.0%} in 90% intervals"
    return judged(pit.p_value, said, int(result.counts.max()))


def _imputed(found: Findings) -> Panel:
    """Coverage of the intervals of hidden entries, and their PIT values."""
    result = found["overimputation"]
    frame = result.to_frame().loc[[result.names[place] for place in result.worst]]
    alts = [
        "Share of hidden entries in their 50, 90 and 95% intervals, by column, with bars of two "
        "standard errors and lines at the nominal levels."
    ]
    alts += [f"Histogram of the PIT values of {name}, with a band." for name in frame.index]
    pictures = draw(lambda axes: plot_overimputation(result, axes), alts, size=SIZE)
    columns = ("", "hidden", "in 50%", "in 90%", "in 95%", "relative width", "p")
    cells = [
        (
            name,
            str(row["hidden"]),
            *(f"{row[f'coverage_{level}']:.2f}" for level in (50, 90, 95)),
            f"{row['relative_width']:.2f}",
            f"{row['p_value']:.2g}",
        )
        for name, row in result.to_frame().iterrows()
    ]
    says = [
        f"{result.num_hidden} observed entries were hidden ({SHARE:.0%} by column) and imputed.",
        "Widths of 90% intervals are relative to those of the column: below 1, the rest of the "
        "row carries information about it.",
    ]
    return Panel(says, pictures=pictures, tables=[Table(columns, cells[:MOST_COLUMNS])])


MISSING = Diagnosis(
    "missing",
    "Missing values",
    "What was run",
    compute=_patterns,
    panel=_missing,
    page="howto/predictive_checks.md#overimputation",
    tree=lambda found: {},
)
OVERIMPUTATION = Diagnosis(
    "overimputation",
    "Imputed values",
    "Is the model right?",
    compute=_overimputation,
    panel=_imputed,
    page="howto/predictive_checks.md#overimputation",
    tree=lambda found: {"overimputation": found["overimputation"].to_frame().to_xarray()},
    about="Model",
    rules=[
        Rule(
            "Imputed values",
            imputed_p,
            "Smallest p-value of the columns whose hidden entries are imputed, corrected for their "
            "number",
            passes=0.05,
            fails=0.001,
            words=(
                "Hidden entries have the distribution of their imputations.",
                "Hidden entries of a column may differ from their imputations.",
                "Hidden entries of a column differ from their imputations.",
            ),
            remedy=LIKELIHOOD,
            better="more",
        )
    ],
)

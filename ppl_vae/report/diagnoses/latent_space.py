"""Where the rows lie among the latents, and what the latents decode to."""

from typing import Any

import numpy as np

from ppl_vae.diagnostics import latent_means, plot_latent
from ppl_vae.diagnostics.plots import two_dims
from ppl_vae.diagnostics.report_plots import as_images, plot_traversal
from ppl_vae.report.diagnoses.worst import described
from ppl_vae.report.diagnosis import Diagnosis, Findings
from ppl_vae.report.elements import Panel, draw
from ppl_vae.report.point_map import PointMap, by_class, by_k_hat, by_number, pixels

SQUARE = (5.2, 4.6)


def _latent_space(found: Findings) -> Panel:
    rows = found.subject.rows
    options: dict[str, Any] = {"seed": found.subject.seed}
    colours = f"coloured by {rows.label_name}" if rows.labels is not None else "without labels"
    alt = f"Posterior means of {len(rows)} rows as points, {colours}."
    pictures = draw(
        lambda ax: plot_latent(*found.programs, rows, **options, ax=ax), alt, size=SQUARE
    )
    says = ["Each point is a row, at the mean of its posterior."]
    if rows.image_shape is not None:
        alt = (
            "A grid of pictures decoded from points of the latent space, which change along both "
            "axes."
        )
        pictures += draw(
            lambda ax: plot_traversal(*found.programs, rows, **options, ax=ax),
            alt,
            size=SQUARE,
            inverts=False,
        )
        says.append("Beside it: pictures decoded from points of the same plane.")
    return Panel(says, pictures=pictures, points=_points(found))


def _points(found: Findings) -> PointMap:
    """The rows in the plane of the picture, with their k-hat and log p(x)."""
    rows = found.subject.rows
    means = found["latent_means"]
    points, names = two_dims(means.mean, means.names)
    colours = [
        by_k_hat(_of_rows(found, "pareto_k")),
        by_number("log p(x)", _of_rows(found, "log_evidence")),
    ]
    if rows.labels is not None and (classes := by_class(rows.label_name, rows.labels)):
        colours.insert(0, classes)
    titles = [f"row {label}" for label in rows.row_labels]
    shown: dict[str, Any] = {"texts": described(rows, np.arange(len(rows)))}
    if rows.image_shape is not None:
        shown = {"pictures": pixels(as_images(rows))}
    return PointMap(points, names, titles, colours, **shown)


def _of_rows(found: Findings, name: str) -> np.ndarray:
    """An estimate of each diagnosed row; NaN for rows without one."""
    values = getattr(found.subject.evidence, name)[: len(found.subject.rows)]
    return np.append(values, np.full(len(found.subject.rows) - len(values), np.nan))


LATENT_SPACE = Diagnosis(
    "latent_means",
    "Latent space",
    "What it learned",
    compute=lambda found: latent_means(found.programs[1], found.subject.rows, **found.options),
    panel=_latent_space,
)

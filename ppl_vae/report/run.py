"""Panels on what was trained: how it is built, how it trained, what it draws."""

from typing import Any

from ppl_vae.diagnostics import plot_latent, plot_reconstructions, plot_samples, plot_training
from ppl_vae.diagnostics.report_plots import as_images, name_features, plot_traversal
from ppl_vae.programs.modules import place
from ppl_vae.report.architecture import chain, layers, plot_graph
from ppl_vae.report.elements import NotApplicable, Panel, Picture, draw, number
from ppl_vae.report.findings import Findings
from ppl_vae.training import FitResult

NUM_RECONSTRUCTED = 12
NUM_PANELS = 6  # of data that are no pictures
NUM_SAMPLES = 60
CELL = 0.64  # inches, of a picture in a row
SQUARE = (5.2, 4.6)


def graph(found: Findings) -> Panel:
    """Model and guide as Pyro sees them."""
    model, guide = found.programs
    alts = (
        "The model: arrows from the latents to the data they generate, in a plate over the data.",
        "The guide: arrows from the data to the latents it infers, in a plate over the data.",
    )
    rows = found.subject.rows

    def plot(axes: Any) -> None:
        for ax, program, given, name in zip(
            axes, (model, guide), ([], ["x"]), ("model p", "guide q"), strict=True
        ):
            plot_graph(program, rows, given, ax).set_title(name)

    return Panel(
        ["Grey is observed or given. Left the model, right the guide."],
        pictures=draw(plot, alts, size=(4.2, 2.4)),
    )


def architecture(found: Findings) -> Panel:
    """What x goes through, layer by layer."""
    model, guide = found.programs
    rows = found.subject.rows
    table = layers(model, guide, rows)
    return Panel(
        [f"{found.subject.metrics['num_parameters']:,} parameters."],
        chain=chain(model, guide, rows),
        tables=[table],
    )


def training(found: Findings) -> Panel:
    """The bound by epoch."""
    metrics = found.subject.metrics
    names = ("history", "best_epoch", "stopped")
    result = FitResult(
        **{name: metrics[name] for name in names}, objective=metrics["run"]["objective"]
    )
    if not result.num_epochs:
        raise NotApplicable("no epoch was trained")
    ends = {name: result.history[name][-1] for name in ("train", "valid") if name in result.history}
    said = ", ".join(f"{name} {number(value, 2)}" for name, value in ends.items())
    alt = f"Lines of the bound by epoch; after {result.num_epochs} epochs: {said} nats per datum."
    return Panel(pictures=draw(lambda ax: plot_training(result, ax), alt, size=(6.4, 3.4)))


def reconstructions(found: Findings) -> Panel:
    """Data beside what the model makes of them."""
    (model, guide), rows = found.programs, found.subject.rows
    seed = {"seed": found.subject.seed}
    if rows.image_shape is not None:
        some = rows[:NUM_RECONSTRUCTED]
        alt = f"{len(some)} data in the upper row, and below each its reconstruction."
        height, width = as_images(some).shape[1:3]
        size = (0.9 + CELL * len(some), 0.2 + 2 * CELL * height / width)
        pictures = draw(
            lambda ax: plot_reconstructions(model, guide, some, len(some), **seed, axes=ax),
            alt,
            size=size,
        )
        note = " Blue is missing." * bool(some.x.isnan().any())
        return Panel([f"E[E[x | z]] with z drawn from the guide.{note}"], pictures=pictures)
    some = rows[:NUM_PANELS]
    alts = [
        f"Features of datum {name}, and dots for their reconstruction."
        for name in some.coords[some.dims[0]]
    ]
    pictures = draw(
        lambda axes: plot_reconstructions(model, guide, some, len(some), **seed, axes=axes), alts
    )
    return Panel(
        ["Bars (or a grey line) are data, dots (or a red line) E[E[x | z]] with z from the guide."],
        pictures=pictures,
    )


def samples(found: Findings) -> Panel:
    """What the model makes of draws from the prior."""
    rows, model = found.subject.rows, found.programs[0]
    context = place(rows, model).context
    count = NUM_SAMPLES if context is None else min(NUM_SAMPLES, len(rows))
    context = None if context is None else context[:count]
    options: dict[str, Any] = {"context": context, "seed": found.subject.seed}
    alt = f"{count} samples: what the decoder makes of draws from the prior."

    def plot(ax: Any) -> None:
        plot_samples(model, count, rows.image_shape, **options, ax=ax)
        if len(rows.dims) == 2 and rows.image_shape is None:
            name_features(ax, rows.coords[rows.dims[1]])

    shown = draw(plot, alt, size=(6.4, 4.2))
    note = [] if context is None else [f"With the covariates of the first {count} diagnosed data."]
    return Panel(note, pictures=shown)


def latent_space(found: Findings) -> Panel:
    """Where the data lie among the latents, and what the latents decode to."""
    (model, guide), rows = found.programs, found.subject.rows
    seed = {"seed": found.subject.seed}
    colours = "coloured by label" if rows.labels is not None else "without labels"
    alt = f"Posterior means of {len(rows)} data as points, {colours}."
    pictures: list[Picture] = draw(
        lambda ax: plot_latent(model, guide, rows, **seed, ax=ax), alt, size=SQUARE
    )
    if rows.image_shape is None:
        return Panel(
            ["Data that are no pictures: no grid of what z decodes to."], pictures=pictures
        )
    alt = "A grid of pictures, each what the decoder makes of a point of the latent space; they change along both axes."
    pictures += draw(lambda ax: plot_traversal(model, guide, rows, **seed, ax=ax), alt, size=SQUARE)
    return Panel(
        ["Left where the data lie, right what points of the same plane decode to."],
        pictures=pictures,
    )

"""The results of a run: numbers, draws, pictures."""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ppl_vae.data import Dataset
from ppl_vae.diagnostics import (
    active_units,
    plot_k_hat,
    plot_latent,
    plot_reconstructions,
    plot_samples,
    plot_table,
    plot_training,
    rate_distortion,
    to_datatree,
)
from ppl_vae.evidence import Evidence, log_evidence
from ppl_vae.experiment.assemble import Experiment
from ppl_vae.experiment.folder import Folder
from ppl_vae.experiment.metrics import Estimates, Metrics, finite
from ppl_vae.experiment.refined import refined_evidence
from ppl_vae.experiment.saved.document import versions
from ppl_vae.experiment.saved.trained import TrainedRun
from ppl_vae.families.likelihoods import Columns
from ppl_vae.guide import Guide
from ppl_vae.model import Model
from ppl_vae.programs.discrete.cases import draws_discrete
from ppl_vae.programs.inference import Inference
from ppl_vae.programs.modules import evaluating, modules_of, place
from ppl_vae.runtime.checks import one_line
from ppl_vae.runtime.files import write_tree, write_whole
from ppl_vae.runtime.seeding import seeded
from ppl_vae.runtime.text import counted
from ppl_vae.training import FitResult
from ppl_vae.training.warnings import constant_densities

__all__ = ["columns_of", "measure", "provenance"]

logger = logging.getLogger(__name__)

NUM_SAMPLES = 200  # draws in posterior.nc
NUM_PICTURES = 48
MOST_ROWS = 1_000  # that the scales are judged by
FLOORED = 0.05  # share of the rows with a scale at its floor


def measure(
    run: TrainedRun,
    held_out: Dataset,
    *,
    progress: bool,
    checkpoint: Path | None = None,
    refined: bool = False,
) -> tuple[Evidence, Estimates]:
    """log p(x) and its errors, rate, distortion and active units of the held-out rows.

    Args:
        run: The run; its [evaluation] has the method.
        held_out: The rows.
        progress: Whether to show bars.
        checkpoint: File of the evidence, which is continued if it exists.
        refined: Whether to refine the guide for rows without an estimate.

    Example:
        >>> from ppl_vae import beds
        >>> from ppl_vae.experiment.saved.run import SavedRun
        >>> bed = beds.linear_gaussian(num_data=30)
        >>> run = SavedRun.of(bed.model, bed.guide, bed.x)
        >>> evidence, found = measure(run, run.held_out, progress=False)
        >>> bool(abs(found.log_evidence - bed.log_evidence.mean()) < 1e-4)
        True
    """
    started = time.perf_counter()
    model, guide, table = run.model, run.guide, run.evaluation
    options: dict[str, Any] = {"seed": table.seed, "progress": progress}
    estimate = refined_evidence if refined else log_evidence
    method = table.method.build()
    evidence = estimate(model, guide, held_out, method, **options, checkpoint=checkpoint)
    alike = held_out.unweighted()  # weights are for the means below
    parts = rate_distortion(model, guide, alike, **options)
    units = active_units(model, guide, alike, **options) if len(held_out) > 1 else None
    checks = dict(evidence.checks)
    is_refined = checks.pop("refined", np.zeros(1))
    # ELBO, KL and distortion are those of the encoder's own draws. The evidence has more of them,
    # but sums discrete latents without q(y given x).
    first = Inference(model, guide, held_out).block(slice(0, 1), seed=0)
    with first.evaluating():
        is_summed = draws_discrete(first.inference.guide, *first.args)
    is_encoders = table.method.keywords.get("proposal") == "guide" and not is_refined.any()
    elbo = evidence.elbo if is_encoders and not is_summed else parts.elbo

    def mean(values: np.ndarray) -> float:
        return float(np.average(values, weights=evidence.weights))

    found = asdict(evidence.summary()) | {
        "elbo": mean(elbo),
        "mean_used": float(evidence.num_used.mean()),
        "num_refined": int(is_refined.sum()),
        "checks": {name: float(np.median(values)) for name, values in checks.items()},
        "kl": mean(parts.rate),
        "distortion": -mean(elbo) - mean(parts.rate),
        "active_units": None if units is None else units.count,
        "latent_dim": run.latent_dim if units is None else len(units.names),
        "at_floor": at_floor(run, held_out, table.seed),
        "rows_used_for": run.used_rows_for,
        "evaluation": table.model_dump(),
        "evaluation_seconds": time.perf_counter() - started,
        "run": {"data": run.rows.name, **run.names},
    }
    return evidence, Estimates(**finite(found))


def columns_of(run: TrainedRun) -> list[dict[str, str]]:
    """What each column of a table was taken for; empty for data without named columns.

    Args:
        run: The run.

    Example:
        >>> import ppl_vae as pv
        >>> from ppl_vae.experiment.saved.run import SavedRun
        >>> data = Dataset([[0.5, 1.0], [1.5, 0.0]], feature_names=["weight", "smokes"])
        >>> model = pv.Model(pv.priors.StandardNormal(1), pv.likelihoods.Columns.of(data))
        >>> columns_of(SavedRun.of(model, None, data))[0]
        {'column': 'weight', 'kind': 'positive', 'likelihood': 'StudentT', 'why': ''}
    """
    data = run.rows
    if "x" not in data.columns or not isinstance(run.model, Model):
        return []
    likelihood = run.model.likelihood
    parts = [likelihood] * len(data.feature_names)
    reasons: dict[str, str] = {}
    if isinstance(likelihood, Columns):
        parts, reasons = likelihood.by_column(), likelihood.reasons
    found = [
        {"column": name, "kind": kind, "likelihood": type(part).__name__}
        | {"why": reasons.get(name, "given").removeprefix(kind).lstrip(", ")}
        for name, kind, part in zip(data.feature_names, data.kinds, parts, strict=True)
    ]
    layout = data.schema.covariates.layout
    for name in map(str, layout.names):
        levels = layout.levels.get(name)
        kind = "number" if levels is None else f"category, {counted(len(levels), 'level')}"
        found.append({"column": name, "kind": kind, "likelihood": "covariate", "why": "given"})
    return found


def at_floor(run: TrainedRun, held_out: Dataset, seed: int = 0) -> list[str]:
    """Features whose scale is at its floor, by the first rows, or that a density is given to though
    they do not vary in training, so that nothing else limits their scale.

    Args:
        run: The run; custom programs have no scales that are known.
        held_out: The rows.
        seed: Seed of one z of q(z given x) for each.

    Example:
        >>> from ppl_vae import beds
        >>> from ppl_vae.experiment.saved.run import SavedRun
        >>> bed = beds.linear_gaussian(num_data=30)
        >>> at_floor(SavedRun.of(bed.model, bed.guide, bed.x), Dataset(bed.x))
        []
    """
    model, guide = run.model, run.guide
    if not isinstance(model, Model) or not isinstance(guide, Guide):
        return []
    some = place(held_out[:MOST_ROWS], model, guide)
    with evaluating(model, guide), seeded(seed), torch.no_grad():
        z = guide.encode(some.x, some.context).sample()
        shares = model.likelihood.at_floor(model.features(z, some.context))
    constant = constant_densities(model, run.part("train"))
    found = {*held_out.features_where(shares >= FLOORED), *constant}
    return [name for name in held_out.features_where(shares >= 0) if name in found]


def provenance(estimates: Estimates, run: TrainedRun, result: FitResult, seconds: float) -> Metrics:
    """The estimates and how they were computed: history, seeds, versions, times.

    Args:
        estimates: From `measure`.
        run: The run.
        result: What `fit` returned.
        seconds: Time of the run.

    Example:
        >>> provenance.__name__
        'provenance'
    """
    programs = nn.ModuleList(modules_of(run.model, run.guide))
    facts = {
        "best_epoch": result.best_epoch,
        "num_epochs": result.num_epochs,
        "stopped": result.stopped,
        "num_parameters": sum(p.numel() for p in programs.parameters()),  # shared ones count once
        "rows": {name: len(rows) for name, rows in run.rows.splits.items()},
        "seeds": run.seeds,
        "versions": versions(),
        "training_seconds": result.wall_time,
        "seconds": seconds,
        "history": result.history,
        "columns": columns_of(run),
    }
    return Metrics(**estimates, **finite(facts))


def write_posterior(
    folder: Folder, experiment: Experiment, held_out: Dataset, *, progress: bool
) -> None:
    """Draws for the first held-out rows, in the ArviZ schema."""
    seed = experiment.config.evaluation.seed
    options: dict[str, Any] = {"num_samples": NUM_SAMPLES, "seed": seed, "progress": progress}
    tree = to_datatree(experiment.model, experiment.guide, held_out, **options)
    tree.attrs["objective"] = repr(experiment.objective)
    packed = {node.path: {name: {"zlib": True} for name in node.data_vars} for node in tree.leaves}
    write_tree(folder.posterior, tree, encoding=packed)


def write_pictures(
    folder: Folder, experiment: Experiment, held_out: Dataset, result: FitResult, evidence: Evidence
) -> None:
    """One PNG per plot; a plot that the model does not allow is left out."""
    model, guide = experiment.model, experiment.guide
    some = place(held_out[:NUM_PICTURES], model)
    pictures: dict[str, Callable[[], Any]] = {
        "reconstructions": lambda: plot_reconstructions(model, guide, some),
        "samples": lambda: plot_samples(
            model, len(some), held_out.image_shape, context=some.context
        ),
        "latent": lambda: plot_latent(model, guide, held_out),
        "k_hat": lambda: plot_k_hat(evidence),
    }
    if "x" in held_out.columns:  # unlike columns have no axis in common
        del pictures["reconstructions"]
        pictures["samples"] = lambda: plot_drawn(model, held_out)
    if result.num_epochs:
        pictures["training"] = lambda: plot_training(result)
    for name, draw in pictures.items():
        try:
            write_picture(folder.path / f"{name}.png", draw)
        except ValueError as error:  # samples of parts of an unknown total, say
            logger.warning("%s.png is left out: %s", name, one_line(error))


def plot_drawn(model: Model, rows: Dataset) -> Any:
    """Rows of a table beside as many drawn rows."""
    with seeded(0):
        drawn = model.sample(len(rows), place(rows, model).context)
    return plot_table(rows, drawn.cpu().numpy())


def write_picture(path: Path, draw: Callable[[], Any]) -> None:
    """Write the figure on which `draw` draws."""
    import matplotlib.pyplot as plt

    axes = np.atleast_1d(np.asarray(draw(), dtype=object))
    figure = axes.ravel()[0].figure
    write_whole(path, lambda p: figure.savefig(p, dpi=150))
    plt.close(figure)

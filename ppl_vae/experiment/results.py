"""What a run leaves behind: numbers, draws, pictures."""

import importlib.metadata
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ppl_vae.data import Dataset
from ppl_vae.diagnostics import (
    active_units,
    plot_k_hat,
    plot_latent,
    plot_reconstructions,
    plot_samples,
    plot_training,
    rate_distortion,
    to_datatree,
)
from ppl_vae.evidence import Evidence, log_evidence
from ppl_vae.experiment.assemble import Experiment
from ppl_vae.experiment.folder import Folder, finite
from ppl_vae.experiment.refined import refined_evidence
from ppl_vae.programs.modules import place
from ppl_vae.runtime.files import write_whole
from ppl_vae.training import FitResult

PACKAGES = ("ppl-vae", "torch", "pyro-ppl", "arviz", "numpy")
NUM_SAMPLES = 200  # draws in posterior.nc
NUM_PICTURES = 48


def measure(
    experiment: Experiment,
    held_out: Dataset,
    *,
    progress: bool,
    checkpoint: Path | None = None,
    refined: bool = False,
) -> tuple[Evidence, dict[str, Any]]:
    """log p(x) and its errors, rate and distortion, active units of the held-out data, with the
    run's settings.
    """
    started, table = time.perf_counter(), experiment.config.evaluation
    model, guide, method = experiment.model, experiment.guide, table.method
    options: dict[str, Any] = {"seed": table.seed, "progress": progress}
    estimate = refined_evidence if refined else log_evidence
    evidence = estimate(model, guide, held_out, method.build(), **options, checkpoint=checkpoint)
    parts = rate_distortion(model, guide, held_out, **options)
    own = (
        evidence if method.keywords.get("proposal") == "guide" else parts
    )  # whose draws are the guide's own
    metrics = asdict(evidence.summary()) | {
        "elbo": float(own.elbo.mean()),
        "mean_used": float(evidence.num_used.mean()),
        "share_estimate": float(evidence.is_estimate.mean()),
        "num_refined": int(evidence.checks["refined"].sum()) if refined else 0,
        "checks": {
            k: float(np.median(values)) for k, values in evidence.checks.items() if k != "refined"
        },
        "kl": float(parts.rate.mean()),
        "distortion": float(parts.distortion.mean()),
        "active_units": active_units(model, guide, held_out, **options).count
        if len(held_out) > 1
        else None,
        "latent_dim": experiment.config.latent_dim,
        "evaluation": table.model_dump(),
        "evaluation_seconds": time.perf_counter() - started,
        "run": describe(experiment),
    }
    return evidence, finite(metrics)


def describe(experiment: Experiment) -> dict[str, str]:
    """What was run, in the names of the library."""
    config = experiment.config
    names = {
        table: getattr(config, table).name
        for table in ("prior", "likelihood", "posterior", "objective")
    }
    return {"data": experiment.data.name} | names


def provenance(experiment: Experiment, result: FitResult, seconds: float) -> dict[str, Any]:
    """How the numbers came about: history, seeds, versions, times."""
    config, data = experiment.config, experiment.data
    parameters = {
        id(p): p.numel()
        for module in (experiment.model, experiment.guide)
        for p in module.parameters()
    }
    facts = {
        "best_epoch": result.best_epoch,
        "num_epochs": result.num_epochs,
        "stopped": result.stopped,
        "num_parameters": sum(parameters.values()),  # a VampPrior shares the guide's
        "rows": {name: len(rows) for name, rows in data.splits.items()},
        "seeds": {
            "data": config.data.seed,
            "training": result.seed,
            "evaluation": config.evaluation.seed,
        },
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES}
        | {"python": platform.python_version()},
        "training_seconds": result.wall_time,
        "seconds": seconds,
        "history": result.history,
    }
    return finite(facts)


def write_posterior(
    folder: Folder, experiment: Experiment, held_out: Dataset, *, progress: bool
) -> None:
    """Draws for the first of the held-out data, in the ArviZ schema."""
    seed = experiment.config.evaluation.seed
    options: dict[str, Any] = {"num_samples": NUM_SAMPLES, "seed": seed, "progress": progress}
    tree = to_datatree(experiment.model, experiment.guide, held_out, **options)
    tree.attrs["objective"] = repr(experiment.objective)
    packed = {node.path: {name: {"zlib": True} for name in node.data_vars} for node in tree.leaves}
    write_whole(folder.posterior, lambda p: tree.to_netcdf(p, engine="h5netcdf", encoding=packed))


def write_pictures(
    folder: Folder, experiment: Experiment, held_out: Dataset, result: FitResult, evidence: Evidence
) -> None:
    """One PNG per plot."""
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
    if result.num_epochs:
        pictures["training"] = lambda: plot_training(result)
    for name, draw in pictures.items():
        write_picture(folder.path / f"{name}.png", draw)


def write_picture(path: Path, draw: Callable[[], Any]) -> None:
    """What `draw` draws, as a file."""
    import matplotlib.pyplot as plt

    axes = np.atleast_1d(np.asarray(draw(), dtype=object))
    figure = axes.ravel()[0].figure
    write_whole(path, lambda p: figure.savefig(p, dpi=150))
    plt.close(figure)

"""fit: stochastic gradient ascent on the training split, monitored on the validation split."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyro.infer import ELBO

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.objectives import MeanFieldELBO
from ppl_vae.programs.modules import as_asked, missing_values, modules_of, require_programs
from ppl_vae.programs.traces import Program
from ppl_vae.runtime.distributed import is_main
from ppl_vae.runtime.locks import alone_with
from ppl_vae.runtime.seeding import one_at_a_time
from ppl_vae.runtime.text import echoed
from ppl_vae.training.loop import Run
from ppl_vae.training.record import (
    AfterEpoch,
    FitResult,
    NonFiniteLossError,
    Tracker,
    Watchers,
)
from ppl_vae.training.settings import Training
from ppl_vae.training.state import Weights
from ppl_vae.training.step import training_mode

__all__ = ["Refits", "fit"]


def fit(
    model: Program,
    guide: Program,
    data: Dataset | Any,
    *,
    objective: ELBO | None = None,
    training: Training | None = None,
    tracker: Tracker | None = None,
    after_epoch: AfterEpoch | None = None,
) -> FitResult:
    """Train model and guide in place by stochastic gradient ascent on the objective.

    Each step follows the gradient of the mean bound over a batch; binarised observations are drawn
    afresh each epoch (`binarize="dynamic"`). The validation bound is unannealed, in evaluation
    mode, with the same draws each epoch. A new `Model` and a new `Guide`, whose weights have never
    been changed, first start from the training rows, as by `start=`, unless all of x lies between 0
    and 1. Modules are left in evaluation mode, even after an error. A second `fit` in another
    thread waits for the first.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        data: A `Dataset` (split or not), or an array, tensor, DataFrame, DataArray.
        objective: One of `objectives` or Pyro's own ELBOs; None is `MeanFieldELBO()`.
        training: Settings; None is `Training()`.
        tracker: A `training.Tracker`, which is told the settings before the first epoch and the
            record of each epoch, under the epoch's number. A resumed training tells neither again
            what an earlier part of it told. With `refit` the names in the second training start
            with "refit/".
        after_epoch: A function of the record of an epoch, a row of `FitResult.history` by name,
            called when the epoch is in the checkpoint, with model and guide in evaluation mode.
            Training stops if it returns True, and `FitResult.stopped` is "after_epoch"; what it
            raises, as for pruning, leaves `fit` with a note that names it. It is not called in the
            second training of `refit`. It changes the result only if it changes the programs:
            later steps then use what it made of them, and graphs are recorded afresh. What it
            changes in their parameters goes into the checkpoint too; what it changes elsewhere is
            the caller's to restore.

    Returns:
        History, best epoch, wall time.

    Raises:
        NonFiniteLossError: the loss or a parameter became NaN or infinite. The last weights with a
            finite bound are put back: those after the last complete epoch, or else those at the
            start.
        ValueError: x is outside the support; there are no held-out rows for early stopping or
            refitting; a warm-up is requested with one of Pyro's objectives; the checkpoint is
            of other settings, data or programs, or of more epochs; batches have one row and the
            objective compares rows; `after_epoch` changes which parameters are trained.
        TypeError: model, guide, objective or training has the wrong type; the tracker lacks a
            member.

    References:
        Kingma and Welling (2014), Auto-encoding variational Bayes, arXiv:1312.6114, algorithm 1;
        Goodfellow, Bengio and Courville (2016), Deep learning, section 7.8 (early stopping, and
        training again on all rows).

    Example:
        >>> import ppl_vae as pv
        >>> data = pv.load("digits", binarize="dynamic")
        >>> guide = pv.Guide(pv.posteriors.MeanFieldNormal(2), data.event_shape)
        >>> likelihood = pv.likelihoods.Bernoulli(data.event_shape)
        >>> model = pv.Model(pv.priors.StandardNormal(2), likelihood)
        >>> result = pv.fit(model, guide, data, training=pv.Training(num_epochs=2, progress=False))
        >>> result.history["valid"][1] > result.history["valid"][0]
        True
    """
    training = Training() if training is None else training
    objective = MeanFieldELBO() if objective is None else objective
    if not isinstance(training, Training):
        raise TypeError(
            f"training is {echoed(training)}; it must be an object, as in Training(num_epochs=10)"
        )
    require_programs(model, guide)
    _require_trainable(model=model, guide=guide)
    watchers = Watchers(tracker, after_epoch)
    checkpoint = training.checkpoint if is_main() else None
    with one_at_a_time, alone_with(checkpoint), as_asked(), torch.enable_grad():
        run = Run(model, guide, as_dataset(data), objective, training, watchers)
        return run.go() if not training.refit else _refitted(run, objective)


def _require_trainable(**programs: Program) -> None:
    """Raise ValueError where parameters were made in torch's inference mode, which forbids it."""
    for which, program in programs.items():
        for module in modules_of(program):
            for name, parameter in module.named_parameters():
                if parameter.is_inference():
                    raise ValueError(
                        f"{name} of the {which} was made inside torch.inference_mode(), and can "
                        "never be trained: make model and guide outside of it"
                    )


class Refits:
    """Trainings of one model and guide on resampled rows, each from their present weights.

    All of them use one recorded step. Training is not monitored: there are no held-out rows.

    Args:
        model: The model, whose weights are restored after each training.
        guide: The guide, likewise.
        data: The rows from which to draw.
        objective: The objective.
        training: Settings; seed, patience, refit, checkpoint and progress are not used.
        num_refits: Number of trainings planned, by which "auto" decides whether to record a step.

    Example:
        >>> import ppl_vae as pv
        >>> data = as_dataset(np.random.default_rng(0).normal(size=(20, 3)))
        >>> model = pv.Model(pv.priors.StandardNormal(1), pv.likelihoods.Gaussian(3), start=data)
        >>> guide = pv.Guide(pv.posteriors.MeanFieldNormal(1), 3, start=data)
        >>> refits = Refits(model, guide, data, MeanFieldELBO(), Training(num_epochs=1), 2)
        >>> sorted(refits(np.zeros(20, dtype=int), seed=0))
        ['guide', 'model', 'named']
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        data: Dataset,
        objective: ELBO,
        training: Training,
        num_refits: int,
    ) -> None:
        training = replace(training, checkpoint=None, patience=None, refit=False)
        with one_at_a_time:
            self.run = Run(model, guide, data, objective, training)
        self.run.step = self.run.stepper(num_refits * self.run.num_steps)
        self.start = self.run.state.take()

    def __call__(self, rows: np.ndarray, seed: int) -> Weights:
        """The weights after training on as many rows as there are, given by their numbers."""
        run = self.run
        programs = run.model, run.guide
        with one_at_a_time, training_mode(*programs), missing_values(run.any_missing, *programs):
            try:
                run.restart(self.start, rows, seed)
                for epoch in range(1, run.training.num_epochs + 1):
                    run.steps(epoch)
                broken = run.state.broken()
                if broken is not None:
                    raise NonFiniteLossError(f"{broken} holds NaN or infinity after a refit")
                return run.state.take()
            finally:
                run.state.put(self.start)


def _refitted(run: Run, objective: ELBO) -> FitResult:
    """Train; then again from the same weights, with the validation rows, up to the best epoch."""
    result = run.go()
    if run.start is not None:
        run.state.put(run.start)
    training = replace(run.training, patience=None, refit=False)
    if training.checkpoint is not None:
        path = Path(training.checkpoint)
        training = replace(training, checkpoint=path.with_name(f"{path.stem}-refit{path.suffix}"))
    splits = dict(run.data.splits)
    splits["train"] = np.concatenate([splits["train"], splits.pop("valid")])
    watchers = Watchers(run.watchers.tracker, prefix="refit/")
    data = run.data.with_splits(splits)
    again = Run(run.model, run.guide, data, objective, training, watchers)
    found = again.go(result.best_epoch or result.num_epochs)
    result.refit_epochs = found.num_epochs
    result.wall_time += found.wall_time
    return result

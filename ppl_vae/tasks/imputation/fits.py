"""Bootstrap fits: a trained model and guide, trained on from where they are on resampled rows."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload, override

import numpy as np
from joblib import Parallel, delayed, effective_n_jobs  # type: ignore[import-untyped]
from pyro.infer import ELBO
from torch import nn

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.objectives import MeanFieldELBO
from ppl_vae.recipes import Recipe
from ppl_vae.runtime.checks import from_keywords, instance_of, one_line, whole_fields
from ppl_vae.runtime.digests import digest
from ppl_vae.runtime.distributed import dead_workers_told
from ppl_vae.runtime.progress import progress_bar
from ppl_vae.runtime.sealed import read_tensors, write_tensors
from ppl_vae.runtime.seeding import derived_seed, generator
from ppl_vae.training import FitResult, Training
from ppl_vae.training.maximise import Refits
from ppl_vae.training.schedules import Cosine
from ppl_vae.training.state import Best, Weights, read_checkpoint, write_checkpoint

__all__ = ["Bootstrap", "Fits", "bootstrap_fits", "refit_training"]

NUM_STEPS = 40
BATCH_SIZE = 256
RATE = 2e-2

Pair = tuple[nn.Module, nn.Module]


class Fits(Sequence[Pair]):
    """Several fits of one model and guide, each a pair in evaluation mode.

    Every pair is a copy of its own: what is done to one leaves the others as they are.

    Args:
        model: The model, as a template.
        guide: The guide, as a template.
        weights: State of model and guide in each fit, {"model": ..., "guide": ...}.

    Example:
        >>> model, guide = nn.Linear(1, 1), nn.Linear(1, 1)
        >>> states = {"model": model.state_dict(), "guide": guide.state_dict()}
        >>> fits = Fits(model, guide, [states, states])
        >>> fits
        Fits(2 fits of Linear and Linear)
        >>> [part.training for part in fits[1]]
        [False, False]
    """

    def __init__(self, model: nn.Module, guide: nn.Module, weights: Sequence[Weights]) -> None:
        self.template = copy.deepcopy((model, guide))
        self.weights = tuple(weights)

    @override
    def __len__(self) -> int:
        return len(self.weights)

    @overload
    def __getitem__(self, index: int) -> Pair: ...

    @overload
    def __getitem__(self, index: slice) -> "Fits": ...

    @override
    def __getitem__(self, index: int | slice) -> "Pair | Fits":
        if isinstance(index, slice):
            return Fits(*self.template, self.weights[index])
        weights = self.weights[index]
        pair = copy.deepcopy(self.template)
        for name, module in zip(("model", "guide"), pair, strict=True):
            module.load_state_dict(weights[name])
            module.eval()
        return pair

    def save(self, path: str | Path) -> Path:
        """Write all fits to one file, which cannot execute code when it is loaded.

        Args:
            path: The file.
        """
        return write_tensors(path, {"fits": list(self.weights)})

    @staticmethod
    def load(path: str | Path, model: nn.Module, guide: nn.Module) -> "Fits":
        """Read what `save` wrote.

        Args:
            path: The file.
            model: The model, built as it was.
            guide: The guide, built as it was.

        Raises:
            ValueError: The file is of another kind, or the structure differs.
        """
        state = read_tensors(path, "fits")
        if "fits" not in state:
            raise ValueError(f"{path} holds no fits written by Fits.save: choose another file")
        fits = Fits(model, guide, state["fits"])
        try:
            fits[0]
        except (RuntimeError, KeyError) as error:
            raise ValueError(f"{path} does not fit this pair: {one_line(error)}") from error
        return fits

    @override
    def __repr__(self) -> str:
        model, guide = (type(part).__name__ for part in self.template)
        return f"Fits({len(self)} fits of {model} and {guide})"


@dataclass(frozen=True)
class Bootstrap:
    """How many bootstrap fits there are, and how they are run.

    Args:
        num_fits: Number of fits.
        num_jobs: Number of processes, -1 for one per core.
        seed: Seed of the samples and of the steps; fit i is the same whatever the numbers above.
        progress: Whether to show a bar when it takes more than two seconds.
        folder: Where fits are kept as they are done, so that interrupted work goes on.

    Raises:
        ValueError: A number is out of range.

    Example:
        >>> Bootstrap(num_fits=5).seed
        0
    """

    num_fits: int = 20
    num_jobs: int = 1
    seed: int = 0
    progress: bool = True
    folder: str | Path | None = None

    def __post_init__(self) -> None:
        whole_fields(self, num_fits=1, num_jobs=-1, seed=0)


def bootstrap_fits(
    model: nn.Module | Recipe,
    guide: nn.Module | None = None,
    data: Dataset | Any = None,
    *,
    objective: ELBO | None = None,
    training: Training | None = None,
    **options: Any,
) -> Fits:
    """Fits to bootstrap samples of the training rows, which carry the uncertainty of theta.

    Fit i maximises the objective over rows drawn with replacement, as many as there are, from the
    trained theta on. Multiple imputations that each use a fit of their own carry the sampling
    variance of theta; with theta fixed, intervals of pooled estimates are too short. Rows keep
    their missing values; units, starting values and levels stay those of the original rows. Model
    and guide themselves are left alone.

    Too few steps carry too little variance, and several fits to the same rows (an ensemble) carry
    none of the sampling variance. docs/imputation.md compares warm starts with cold ones.

    Args:
        model: The trained model, a module; or a trained `Recipe` alone, which has guide, rows and
            objective too.
        guide: The trained guide, a module.
        data: The rows that they were trained on; of a split `Dataset`, those for training and for
            validation, since refits take a fixed number of steps.
        objective: What they were trained with; None is `MeanFieldELBO()`, as in `fit`.
        training: Settings of the refits; None is `refit_training(data)`. Its seed, progress,
            patience and checkpoint are not used.
        options: Keywords of `Bootstrap`: num_fits (20), num_jobs (1), seed (0), progress, folder.

    Returns:
        The fits, a sequence of pairs of model and guide.

    Raises:
        TypeError: Model or guide is no module, so that its weights cannot be copied.
        NonFiniteLossError: A refit diverged.
        WorkerError: A worker process was killed.

    References:
        Efron (1994), Missing data, imputation, and the bootstrap, JASA 89; Little and Rubin (2019),
        Statistical analysis with missing data, section 10.2.3.

    Example:
        >>> import ppl_vae as pv
        >>> x = np.random.default_rng(0).normal(size=(50, 3))
        >>> model = pv.Model(pv.priors.StandardNormal(1), pv.likelihoods.Gaussian(3), start=x)
        >>> guide = pv.Guide(pv.posteriors.MeanFieldNormal(1), 3, start=x)
        >>> few = pv.Training(num_epochs=2)
        >>> pv.bootstrap_fits(model, guide, x, training=few, num_fits=2, progress=False)
        Fits(2 fits of Model and Guide)
    """
    settings = from_keywords(Bootstrap, options, "bootstrap_fits")
    if isinstance(model, Recipe):
        data = model.data if data is None else data
        objective = model.objective if objective is None else objective
        model, guide = model.model, model.guide
    model, guide = _module(model, "model"), _module(guide, "guide")
    if data is None:
        raise TypeError("data are not given: give the rows that model and guide were trained on")
    data = _rows_fitted(as_dataset(data)).in_memory()
    training = refit_training(data) if training is None else training
    instance_of(training, "training", Training)
    objective = MeanFieldELBO() if objective is None else objective
    work = _Work(*copy.deepcopy((model, guide)), data, objective, training, settings)
    num_jobs = min(settings.num_fits, effective_n_jobs(settings.num_jobs))
    shares = [range(first, settings.num_fits, num_jobs) for first in range(num_jobs)]
    kept = "the fits that are done were kept" if settings.folder else "give folder= to keep fits"
    with dead_workers_told(f"lower num_jobs, and call again ({kept})"):
        parts = Parallel(n_jobs=num_jobs)(delayed(work.share)(share) for share in shares)
    weights = {number: found for part in parts for number, found in part.items()}
    return Fits(work.model, work.guide, [weights[i] for i in range(settings.num_fits)])


def _module(program: Any, name: str) -> nn.Module:
    """The program, if its weights can be copied."""
    if not isinstance(program, nn.Module):
        raise TypeError(
            f"{name} is of type {type(program).__name__}, whose weights cannot be copied: make it "
            "a torch module"
        )
    return program


def refit_training(data: Dataset | Any) -> Training:
    """Settings for training on from trained weights on resampled rows: 40 steps.

    A warm start needs few steps: theta moves by its sampling error only. Networks without hidden
    layers, trained by an ELBO rather than IWAE, need more steps or a higher rate.

    Args:
        data: The rows, as in `bootstrap_fits`.

    Example:
        >>> refit_training(np.zeros((200, 2))).num_epochs
        40
    """
    num_rows = len(_rows_fitted(as_dataset(data)))
    batch_size = min(num_rows, BATCH_SIZE)
    return Training(
        num_epochs=max(1, round(NUM_STEPS * batch_size / num_rows)),
        batch_size=batch_size,
        learning_rate=Cosine(RATE),
    )


def _rows_fitted(data: Dataset) -> Dataset:
    """The rows for training and for validation."""
    if "valid" not in data.splits:
        return data.train
    rows = np.concatenate([data.splits["train"], data.splits["valid"]])
    return data[np.sort(rows)]


@dataclass(frozen=True)
class _Work:
    """What is refitted, and how; a copy of it goes to each process."""

    model: nn.Module
    guide: nn.Module
    data: Dataset
    objective: Any
    training: Training
    settings: Bootstrap

    def share(self, numbers: Sequence[int]) -> dict[int, Weights]:
        """Weights of the fits with these numbers."""
        programs = copy.deepcopy((self.model, self.guide))  # threads share this object
        objective = copy.deepcopy(self.objective)
        num_fits = self.settings.num_fits
        refits = Refits(*programs, self.data, objective, self.training, num_fits)
        shown: Any = {"unit": "fits", "progress": self.settings.progress}
        found = {}
        with progress_bar(len(numbers), "bootstrap fits", **shown) as bar:
            for i in numbers:
                found[i] = self._kept(refits, i)
                bar.update()
        return found

    def _kept(self, refits: Refits, i: int) -> Weights:
        """Weights of fit i, from its file where there is one."""
        if self.settings.folder is None:
            return self._fit(refits, i)
        path = Path(self.settings.folder) / f"fit-{i:03d}.pt"
        known = self._described()
        kept = read_checkpoint(path, known)
        if kept is not None:
            return kept["weights"]
        weights = self._fit(refits, i)
        write_checkpoint(path, known, weights, {}, FitResult(), Best())
        return weights

    def _fit(self, refits: Refits, i: int) -> Weights:
        """Weights after training on bootstrap sample i."""
        seed = derived_seed(self.settings.seed, i)
        rows = generator(seed).integers(len(self.data), size=len(self.data))
        return refits(rows, seed)

    def _described(self) -> dict[str, str]:
        """What must agree for a file of a fit to be read."""
        given = (self.data.x, self.data.context, self.data.weights)
        programs = self.model, self.guide
        tensors = [each for part in programs for each in part.state_dict().values()]
        return self.training.described() | {
            "num_epochs": str(self.training.num_epochs),
            "seed": str(self.settings.seed),
            "objective": repr(self.objective),
            "data": digest([each for each in given if each is not None]),
            "model and guide": digest([*map(repr, programs), *tensors]),
        }

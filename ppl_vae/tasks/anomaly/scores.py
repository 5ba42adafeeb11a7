"""How odd a row is under a model: scores that are functions of the row alone."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.evidence import Evidence, evidence_interval, reduce_log_weights
from ppl_vae.hmc import HMC
from ppl_vae.importance import EAGER
from ppl_vae.programs.inference import Inference, rows_per_chunk
from ppl_vae.programs.traces import Program
from ppl_vae.refinement import GradientRefinement, refine
from ppl_vae.refinement.task import Refinement
from ppl_vae.runtime.checks import whole_fields
from ppl_vae.runtime.progress import progress_bar
from ppl_vae.runtime.seeding import derived_seed
from ppl_vae.tasks.anomaly.noise import SharedNoise, UnsharedNoiseError

__all__ = ["LikelihoodRegret", "LogEvidence", "LowerEnd", "Score", "Typicality"]

MOST_REFERENCE_ROWS = 1000  # of training: enough for a median
REFINEMENT, DRAWS = range(2)  # random streams of a score


@runtime_checkable
class Score(Protocol):
    """How odd rows are: larger is odder.

    Example:
        >>> isinstance(LogEvidence(), Score)
        True
    """

    def ready(
        self, model: Program, guide: Program, trained_on: Dataset | None, progress: bool
    ) -> "Score":
        """The score after whatever must precede the rows."""

    def oddness(self, model: Program, guide: Program, data: Dataset, progress: bool) -> np.ndarray:
        """The score of each row, (N,)."""


@dataclass(frozen=True)
class LogEvidence:
    """-log p(x): the rows to which the model gives the least density are the odd ones.

    Every row is refined, not only those with bad weights, so that a row is not odd because the
    encoder serves it badly. All rows share one set of random numbers, and weights are computed row
    by row: order and company of a row change nothing, up to rounding. Other refinements than by
    gradients, and posteriors that do not draw from normals (Student's t, mixtures), go row by row,
    which is slow. Discrete latents are summed out, as in `log_evidence`. log p(x) of a row with
    missing entries is that of its observed ones, and larger the fewer they are. In many dimensions
    rows without structure may have a larger log p(x) than those of training.

    Args:
        num_particles: Draws K of each row.
        refinement: How guides are refined, as in `refine`; None takes the guide as it is.
        seed: Seed of the shared random numbers.

    Raises:
        ValueError: fewer than one particle.

    References:
        Nalisnick et al. (2019), Do deep generative models know what they don't know?,
        arXiv:1810.09136.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> score = LogEvidence(num_particles=30, refinement=None)
        >>> found = score.oddness(bed.model, bed.guide, Dataset(bed.x), progress=False)
        >>> bool(abs(found + bed.log_evidence.numpy()).max() < 1e-5)
        True
    """

    num_particles: int = 1000
    refinement: Refinement | HMC | None = field(default_factory=GradientRefinement)
    seed: int = 0

    def __post_init__(self) -> None:
        whole_fields(self, num_particles=1, seed=0)

    def ready(
        self, model: Program, guide: Program, trained_on: Dataset | None, progress: bool
    ) -> Score:
        """The score itself."""
        return self

    def oddness(self, model: Program, guide: Program, data: Dataset, progress: bool) -> np.ndarray:
        """-log p(x), (N,)."""
        return -self.evidence(model, guide, data, progress).log_evidence

    def evidence(
        self, model: Program, guide: Program, data: Dataset, progress: bool, title: str = "log p(x)"
    ) -> Evidence:
        """log p(x) of each row, by its refined guide."""
        parts = []
        with progress_bar(len(data), title, progress=progress) as bar:
            for rows, own_guide in self.guides(model, guide, data):
                for log_weights in self._weights(model, own_guide, rows):
                    parts.append(log_weights)
                    bar.update()
        return reduce_log_weights(np.concatenate(parts, axis=1))

    def guides(
        self, model: Program, guide: Program, data: Dataset
    ) -> Iterator[tuple[Dataset, Program]]:
        """The rows in parts, each with a refined guide that does not depend on their company.

        Rows go one by one where noise is not shared.
        """
        step = rows_per_chunk(len(data), getattr(self.refinement, "num_particles", 1))
        options: Any = {"seed": derived_seed(self.seed, REFINEMENT), "progress": False}
        for start in range(0, len(data), step):
            some = data[start : start + step]
            if self.refinement is None:
                yield some, guide
                continue
            try:
                refined = self._refined_together(model, guide, some, options)
            except UnsharedNoiseError:
                for row in range(len(some)):
                    one = some[row]
                    yield one, refine(model, guide, one, self.refinement, **options)
            else:
                yield some, refined

    def _refined_together(
        self, model: Program, guide: Program, data: Dataset, options: Any
    ) -> Program:
        """A guide for all rows, whose parameters do not depend on the company of a row."""
        if not isinstance(self.refinement, GradientRefinement):
            raise UnsharedNoiseError("chains draw outside the sites of the guide")
        with SharedNoise():
            return refine(model, guide, data, self.refinement, **options)

    def _weights(self, model: Program, guide: Program, data: Dataset) -> Iterator[np.ndarray]:
        """Log-weights of each row alone, (K, 1), from the same seed."""
        inference = Inference(model, guide, data)
        seed = derived_seed(self.seed, DRAWS)
        for row in range(len(inference)):
            block = inference.block(slice(row, row + 1), seed)
            with block.evaluating():
                found = EAGER(inference.model, inference.guide, block.args, self.num_particles)
            yield found.cpu().numpy()


@dataclass(frozen=True)
class LowerEnd:
    """Minus the lower end of `evidence_interval`: where log p(x) is not known, it counts as small.

    Each row is evaluated alone with the same seed, about a hundred times slower than `LogEvidence`.

    Args:
        method: As in `evidence_interval`; None is its default.
        seed: Seed of the draws, the same for all rows.

    Example:
        >>> from ppl_vae import beds
        >>> from ppl_vae.evidence import ImportanceSampling, Sandwich
        >>> bed = beds.linear_gaussian(num_data=2)
        >>> score = LowerEnd(Sandwich(ImportanceSampling(30), check=None, upper=None))
        >>> found = score.oddness(bed.model, bed.guide, Dataset(bed.x), progress=False)
        >>> bool(abs(found + bed.log_evidence.numpy()).max() < 1e-5)
        True
    """

    method: Any = None
    seed: int = 0

    def ready(
        self, model: Program, guide: Program, trained_on: Dataset | None, progress: bool
    ) -> Score:
        """The score itself."""
        return self

    def oddness(self, model: Program, guide: Program, data: Dataset, progress: bool) -> np.ndarray:
        """Minus the lower end, (N,)."""
        options: Any = {"seed": self.seed, "progress": False}
        found = []
        with progress_bar(len(data), "evidence_interval", progress=progress) as bar:
            for row in range(len(data)):
                interval = evidence_interval(model, guide, data[row], self.method, **options)
                found.append(interval.lower)
                bar.update()
        return -np.concatenate(found)


@dataclass(frozen=True)
class Typicality(LogEvidence):
    """|log p(x) - c|, c the median of log p(x) over reference rows: odd on either side.

    The reference rows must not be among those of calibration or of the test, such as the rows of
    training. Given them (and the model), c is a constant, so that the score is a fixed function of
    the row alone, and scores of exchangeable rows are exchangeable. A median over the rows of
    calibration would favour these over a test row, which has no part in it. log p(x) of the rows of
    training is larger than that of new rows; this moves c and costs power, and p-values stay valid.

    Args:
        num_particles: Draws K of each row.
        refinement: How guides are refined, as in `refine`; None takes the guide as it is.
        seed: Seed of the shared random numbers.
        reference: The reference rows, as a `Dataset` or an array. None is for the training rows of
            `anomaly_pvalues(trained_on=)`, the first 1,000 of them.
        centre: c, where it is known.

    References:
        Nalisnick et al. (2019), Detecting out-of-distribution inputs to deep generative models
        using typicality, arXiv:1906.02994.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=5)
        >>> score = Typicality(30, refinement=None, reference=bed.x)
        >>> score = score.ready(bed.model, bed.guide, None, progress=False)
        >>> score.oddness(bed.model, bed.guide, Dataset(bed.x), progress=False).min() < 1e-5
        np.True_
    """

    reference: Any = None
    centre: float | None = None

    def ready(
        self, model: Program, guide: Program, trained_on: Dataset | None, progress: bool
    ) -> Score:
        """The score with its centre."""
        if self.centre is not None:
            return self
        reference = None if trained_on is None else trained_on.train[:MOST_REFERENCE_ROWS]
        if self.reference is not None:
            reference = as_dataset(self.reference)
        if reference is None:
            raise ValueError(
                "typicality needs rows that its centre is taken from: give trained_on=data, the "
                "rows of training, or score=Typicality(reference=rows)"
            )
        found = self.evidence(model, guide, reference, progress, title="reference rows")
        return replace(self, reference=reference, centre=float(np.median(found.log_evidence)))

    def oddness(self, model: Program, guide: Program, data: Dataset, progress: bool) -> np.ndarray:
        """|log p(x) - c|, (N,)."""
        return abs(self.evidence(model, guide, data, progress).log_evidence - self.centre)


@dataclass(frozen=True)
class LikelihoodRegret(LogEvidence):
    """ELBO(x; q*) - ELBO(x; q): what a posterior of the row's own gains over that of the encoder.

    It does not compare log p(x) of different rows, and so survives where log p(x) itself prefers
    rows without structure. It measures the encoder, which has to generalise to new rows of the same
    law; where the encoder is exact it is zero. Both ELBOs are means over the same number of
    particles, with discrete latents summed out, as in `log_evidence`: q(y given x) of a discrete
    latent y is in neither.

    Args:
        num_particles: Draws K of each row.
        refinement: How guides are refined, as in `refine`.
        seed: Seed of the shared random numbers.

    Raises:
        ValueError: `refinement` is None.

    References:
        Xiao, Yan and Amit (2020), Likelihood regret: an out-of-distribution detection score for
        variational auto-encoder, arXiv:2003.02977 (who refine the encoder as a whole, row by row).

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3, guide_shift=2.0)
        >>> score = LikelihoodRegret(100, GradientRefinement(num_steps=100))
        >>> bool(score.oddness(bed.model, bed.guide, Dataset(bed.x), progress=False).min() > 1)
        True
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.refinement is None:
            raise ValueError(
                "LikelihoodRegret(refinement) is None, and regret is what refinement gains: give "
                "GradientRefinement(...)"
            )

    def oddness(self, model: Program, guide: Program, data: Dataset, progress: bool) -> np.ndarray:
        """ELBO(x; q*) - ELBO(x; q), (N,); infinite where the guide's ELBO is."""
        plain = LogEvidence(self.num_particles, None, self.seed)
        refined = self.evidence(model, guide, data, progress, title="regret").elbo
        before = plain.evidence(model, guide, data, progress=False).elbo
        known = np.isfinite(before)
        return np.where(known, refined - np.where(known, before, 0.0), np.inf)

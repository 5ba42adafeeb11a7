"""log p(x) of each row, which depends on no other row."""

import numpy as np

from ppl_vae.data import Dataset
from ppl_vae.evidence import Defensive, Evidence, reduce_log_weights
from ppl_vae.evidence.defensive import mixture_terms
from ppl_vae.evidence.pareto import GOOD_K
from ppl_vae.evidence.result import concatenate
from ppl_vae.families.missing import outside_of
from ppl_vae.guide import Guide
from ppl_vae.model import Model
from ppl_vae.programs.inference import Inference, rows_per_chunk
from ppl_vae.programs.traces import Program
from ppl_vae.refinement import GradientRefinement
from ppl_vae.refinement.task import own_family
from ppl_vae.runtime.checks import warn_caller
from ppl_vae.sklearn.keyed import KeyedGuide
from ppl_vae.tasks.anomaly import LogEvidence


class Density:
    """log p(x) by importance sampling from the guide, or from a better one where weights are poor.

    The better guide has parameters of its own for each row (`refine`), and a fifth of its draws are
    the guide's own. Draws are keyed by the contents of the row.
    """

    def __init__(
        self, model: Model, guide: Guide, num_particles: int, refine_steps: int, seed: int
    ) -> None:
        self.model = model
        self.guide = guide
        self.keyed = KeyedGuide(guide, seed)
        self.num_particles = num_particles
        self.refine_steps = refine_steps
        self.seed = seed

    def __call__(self, data: Dataset) -> np.ndarray:
        """log p(x), (N,); -inf where x lies outside the likelihood's support."""
        data = data.with_levels(self.model.levels)
        outside = outside_of(self.model.likelihood.support, data.x).flatten(1).any(1).numpy()
        log_p = np.full(len(data), -np.inf)
        rows = np.flatnonzero(~outside)
        if len(rows):
            log_p[rows] = self.inside(data[rows])
        return log_p

    def inside(self, data: Dataset) -> np.ndarray:
        """log p(x) of rows inside the support."""
        found = self._sampled([(self.keyed, self.num_particles)], data)
        log_p = found.log_evidence
        poor = found.pareto_k > GOOD_K
        if poor.any() and self.refine_steps and own_family(self.guide):
            refined = self._refined(data[poor])
            log_p[poor] = refined.log_evidence
            poor[poor] = refined.pareto_k > GOOD_K
        if poor.any():
            count = f"{poor.sum()} of {len(data)} rows (k-hat > {GOOD_K})"
            warn_caller(
                f"log p(x) is not reliable for {count}: raise refine_steps, num_particles or "
                "max_steps"
            )
        return log_p

    def _refined(self, data: Dataset) -> Evidence:
        """From a better guide, and the guide itself."""
        score = LogEvidence(refinement=GradientRefinement(self.refine_steps), seed=self.seed)
        counts = Defensive().strata(self.num_particles)
        parts = []
        for rows, refined in score.guides(self.model, self.guide, data):
            both = KeyedGuide(refined, self.seed + 1), self.keyed
            parts.append(self._sampled(list(zip(both, counts, strict=True)), rows))
        return concatenate(parts)

    def _sampled(self, proposals: list[tuple[Program, int]], data: Dataset) -> Evidence:
        """By draws from these proposals, block by block."""
        inference = Inference(self.model, self.guide, data)
        step = rows_per_chunk(len(data), self.num_particles)
        parts = []
        for block in inference.blocks(step, seed=self.seed):
            with block.evaluating():
                _, log_weights = mixture_terms(self.model, proposals, *block.args)
            parts.append(reduce_log_weights(log_weights.cpu().numpy()))
        return concatenate(parts)

"""log p(x) by annealed importance sampling: a lower bound forwards, an upper bound backwards."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.evidence.annealing.path import PILOT_CHAINS, Kernels, Path, explore, temperatures, tune
from ppl_vae.evidence.importance_sampling import warn_of_few
from ppl_vae.evidence.result import Evidence
from ppl_vae.evidence.weights import reduce_log_weights
from ppl_vae.hmc import HMC
from ppl_vae.programs.inference import rows_per_chunk
from ppl_vae.programs.modules import arguments, evaluating
from ppl_vae.programs.traces import Program
from ppl_vae.runtime.checks import instance_of, one_of, whole_fields
from ppl_vae.runtime.seeding import derived_seed, seeded

__all__ = ["AIS"]

PAIRS_PER_BLOCK = 2_000  # each block runs through all temperatures before the next begins
FORWARD, REVERSE, PILOT = range(3)  # keys of the seed


@dataclass(frozen=True)
class AIS:
    """log p(x) ~ log mean_c w_c, w = prod_t (p(x, z_t) / q(z_t given x))^(beta_(t+1) - beta_t)
    along annealed chains.

    Each chain starts at z_0 ~ q and moves by Hamiltonian Monte Carlo that leaves q^(1 - beta_t)
    p(x, z)^beta_t invariant, beta from 0 to 1. For any number of temperatures E[w] = p(x) exactly:
    temperatures, step sizes and scales come from a pilot run with separate draws and are fixed
    before the weights are drawn. With one temperature it is importance sampling. log w is a lower
    bound in expectation, loose if q misses modes or there are too few temperatures. It costs
    temperatures x leapfrog gradients of the model per chain; the pilot takes 8 more chains.

    Args:
        num_chains: Number of chains C per row; k-hat needs 30.
        num_temperatures: Number of temperatures T.
        start: Where chains start: "guide" is q(z given x), "prior" is p(z) in its place.
        schedule: "sigmoid" is dense at both ends; "linear" is even; "adaptive" makes steps of equal
            conditional effective sample size, per row, by a second pilot run, for paths that change
            fast at one end.
        sampler: The moves: `num_samples` transitions per temperature, `num_leapfrog`,
            `target_accept`; its warm-up is not used.
        chunk_size: (chain, row) pairs held at once; bounds the memory, and sets how often bar and
            checkpoint are updated; None is 2,000.

    Raises:
        ValueError: a size below one, an unknown start or schedule; a guide whose density cannot be
            evaluated.

    References:
        Neal (2001), Annealed importance sampling, arXiv:physics/9803008; Wu et al. (2017), On the
        quantitative analysis of decoder-based generative models, arXiv:1611.04273.

    Example:
        >>> from ppl_vae import beds
        >>> from ppl_vae.evidence import log_evidence
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> evidence = log_evidence(bed.model, bed.guide, bed.x, AIS(30, 20, start="prior"))
        >>> bool((abs(evidence.log_evidence - bed.log_evidence.numpy()) < 4 * evidence.mc_se).all())
        True
    """

    num_chains: int = 32
    num_temperatures: int = 100
    start: Literal["guide", "prior"] = "guide"
    schedule: Literal["sigmoid", "linear", "adaptive"] = "sigmoid"
    sampler: HMC = HMC(num_samples=1, num_warmup=0, target_accept=0.65)
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        whole_fields(self, num_chains=1, num_temperatures=1, chunk_size=1)
        one_of(self.start, "AIS(start)", ("guide", "prior"))
        one_of(self.schedule, "AIS(schedule)", ("sigmoid", "linear", "adaptive"))
        instance_of(self.sampler, "AIS(sampler)", HMC)

    def rows(self, num_data: int) -> int:
        """Number of rows that `estimate` should be given at once."""
        return rows_per_chunk(num_data, self.num_chains, self.chunk_size or PAIRS_PER_BLOCK)

    def warn(self) -> None:
        """Warn if these settings leave a diagnostic unknown."""
        warn_of_few(self.num_chains, "chains")

    def estimate(
        self, model: Program, guide: Program, data: Dataset, *, seed: int | None
    ) -> Evidence:
        """Evidence of a block of rows."""
        return reduce_log_weights(self.log_weights(model, guide, data, seed=seed).cpu().numpy())

    def log_weights(
        self, model: Program, guide: Program, data: Dataset, *, seed: int | None = 0
    ) -> Tensor:
        """log w of every chain, (C, B): E[w] = p(x)."""
        with evaluating(model, guide):
            kernels = self._tuned(model, guide, data, seed)
            with seeded(derived_seed(seed, FORWARD)):
                path = self._path(model, guide, data, self.num_chains)
                position, log_w = path.start, torch.zeros_like(path.start[..., 0])
                for t in range(len(kernels)):
                    if t > 0:
                        position = kernels.move(path, position, t, self.sampler)
                    log_w = log_w + kernels.increase(t) * path.log_ratio(position)
                return log_w

    def reverse_log_weights(
        self,
        model: Program,
        guide: Program,
        data: Dataset,
        latents: dict[str, Tensor],
        *,
        seed: int | None = 0,
    ) -> Tensor:
        """log w of chains that run backwards from draws of the posterior, (C, B): E[1 / w] = 1 /
        p(x).

        So - log mean_c (1 / w_c) is an upper bound in expectation. It requires exact posterior
        draws, which exist for simulated rows; with draws of a sampler it is as good as the sampler.

        Args:
            model: The model.
            guide: The guide.
            data: A block of rows.
            latents: Posterior draws of each site by name, (C, B, *plates, *event), or without C.
            seed: The kernels are those of `log_weights` at the same seed.
        """
        with evaluating(model, guide):
            kernels = self._tuned(model, guide, data, seed)
            with seeded(derived_seed(seed, REVERSE)):
                path = self._path(model, guide, data, self.num_chains)
                own = path.log_joint.constrain(path.start)
                values = {name: latents[name].expand_as(z) for name, z in own.items()}
                position = path.log_joint.pack(values)
                log_w = torch.zeros_like(path.start[..., 0])
                for t in reversed(range(len(kernels))):
                    log_w = log_w + kernels.increase(t) * path.log_ratio(position)
                    if t > 0:
                        position = kernels.move(path, position, t, self.sampler)
                return log_w

    def _path(self, model: Program, guide: Program, data: Dataset, num_chains: int) -> Path:
        num_evaluations = self.num_temperatures * self.sampler.num_samples
        num_evaluations *= self.sampler.num_leapfrog
        args = arguments(data)
        return Path(model, guide, args, num_chains, self.start, num_evaluations)

    def _tuned(self, model: Program, guide: Program, data: Dataset, seed: int | None) -> Kernels:
        """Kernels from a pilot run with its own random stream."""
        with seeded(derived_seed(seed, PILOT)):
            path = self._path(model, guide, data, PILOT_CHAINS)
            if self.schedule == "adaptive" and self.num_temperatures > 1:
                betas = explore(path, self.sampler, self.num_temperatures)
            else:
                betas = temperatures(self.schedule, self.num_temperatures, len(data)).to(path.start)
            return tune(path, betas, self.sampler)

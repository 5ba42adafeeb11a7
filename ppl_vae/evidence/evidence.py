"""Evidence: log p(x) per datum with what says whether to believe it."""

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from ppl_vae.evidence.pareto import pareto_k

__all__ = ["Evidence", "EvidenceSummary", "reduce_log_weights"]

GOOD_K = 0.7


@dataclass(frozen=True)
class EvidenceSummary:
    """Means over the data, in nats per datum, with both kinds of error.

    Args:
        log_evidence: Mean of log p(x).
        mc_se: Its Monte Carlo standard error: how it would vary if only the particles were drawn again.
        data_se: Its standard error over the data: how it would vary if the data were drawn again.
        mc_bias: Leading term of its bias, - mean(mc_se^2) / 2: log of a mean is low; trust it where k-hat is good.
        elbo: Mean ELBO of the same draws.
        mean_ess: Mean effective sample size.
        share_bad_k: Share of the data with k-hat > 0.7, for which log p(x) is a bound; NaN if unknown.
        num_data: Number of data N.
        num_particles: Number of particles K.

    References:
        No paper: definitions.

    Example:
        >>> summary = reduce_log_weights(np.zeros((100, 5))).summary()
        >>> summary.log_evidence, summary.mc_se, summary.share_bad_k
        (0.0, 0.0, 0.0)
    """

    log_evidence: float
    mc_se: float
    data_se: float
    mc_bias: float
    elbo: float
    mean_ess: float
    share_bad_k: float
    num_data: int
    num_particles: int

    def __str__(self) -> str:
        return (
            f"log p(x) = {self.log_evidence:.3f} nats per datum "
            f"(Monte Carlo se {self.mc_se:.3f}, data se {self.data_se:.3f}); ELBO {self.elbo:.3f}; "
            f"k-hat > {GOOD_K} for {self.share_bad_k:.0%} of {self.num_data} data at K={self.num_particles}"
        )


@dataclass(frozen=True)
class Evidence:
    """Estimates of log p(x), one per datum, from K importance weights each.

    Args:
        log_evidence: log mean_k w_k, nats, (N,).
        mc_se: Its standard error by the delta method, sd(w) / (mean(w) sqrt(K)), (N,). Meaningless where k-hat > 0.7.
        ess: Effective sample size, (sum w)^2 / sum w^2, between 1 and K, (N,).
        pareto_k: Pareto k-hat, (N,): above 0.7 log_evidence is a lower bound in expectation and no more.
        elbo: mean_k log w_k, (N,).
        num_particles: Number of particles K.

    References:
        Burda, Grosse and Salakhutdinov (2016), arXiv:1509.00519; Vehtari et al. (2024), arXiv:1507.02646.

    Example:
        >>> evidence = reduce_log_weights(np.log([[0.5, 1.0]] * 30))
        >>> evidence.log_evidence.round(3).tolist()
        [-0.693, 0.0]
    """

    log_evidence: np.ndarray
    mc_se: np.ndarray
    ess: np.ndarray
    pareto_k: np.ndarray
    elbo: np.ndarray
    num_particles: int

    def __len__(self) -> int:
        return len(self.log_evidence)

    def summary(self) -> EvidenceSummary:
        """Means over the data and their standard errors."""
        n = len(self)
        unknown = np.isnan(self.pareto_k).any()
        return EvidenceSummary(
            log_evidence=float(self.log_evidence.mean()),
            mc_se=float(np.sqrt(np.square(self.mc_se).sum()) / n),
            data_se=float(self.log_evidence.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan"),
            mc_bias=float(-0.5 * np.square(self.mc_se).mean()),
            elbo=float(self.elbo.mean()),
            mean_ess=float(self.ess.mean()),
            share_bad_k=float("nan") if unknown else float((self.pareto_k > GOOD_K).mean()),
            num_data=n,
            num_particles=self.num_particles,
        )


def reduce_log_weights(log_weights: np.ndarray) -> Evidence:
    """Evidence from log-weights, in float64.

    Args:
        log_weights: log w, shape (K, B).

    Returns:
        Evidence of the B data.

    References:
        Owen (2013), Monte Carlo theory, methods and examples, chapter 9.

    Example:
        >>> reduce_log_weights(np.zeros((50, 2))).ess.tolist()
        [50.0, 50.0]
    """
    log_weights = np.asarray(log_weights)
    k_hat, log_w = pareto_k(log_weights), log_weights.astype(np.float64)
    num_particles = len(log_w)
    log_evidence = logsumexp(log_w, axis=0) - np.log(num_particles)
    ratio = np.exp(log_w - log_evidence)  # w / mean(w)
    variance = ratio.var(axis=0, ddof=1) if num_particles > 1 else np.full(log_w.shape[1], np.nan)
    return Evidence(
        log_evidence=log_evidence,
        mc_se=np.sqrt(variance / num_particles),
        ess=num_particles**2 / np.square(ratio).sum(0),
        pareto_k=k_hat,
        elbo=log_w.mean(0),
        num_particles=num_particles,
    )


def concatenate(parts: list[Evidence]) -> Evidence:
    """Evidence of all data from that of parts of them."""
    arrays = ("log_evidence", "mc_se", "ess", "pareto_k", "elbo")
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in arrays}
    return Evidence(**joined, num_particles=parts[0].num_particles)

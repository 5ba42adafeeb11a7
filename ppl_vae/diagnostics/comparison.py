"""Models side by side on the same held-out rows: paired differences, which are far less noisy than the means."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ppl_vae.evidence import Evidence

__all__ = ["ModelComparison", "compare_models"]


@dataclass(frozen=True)
class ModelComparison:
    """Models from best to worst by mean log p(x), each against the best.

    Args:
        names: Names, best first.
        log_evidence: Mean log p(x), nats per datum.
        data_se: Its standard error over the data.
        difference: log p(x) less that of the best, mean over the data.
        difference_se: Standard error of the difference, paired by datum: sd(d_i) / sqrt(N).
        difference_mc_se: The part of it that is Monte Carlo, from both models' particles.
        share_bad_k: Share of the data with k-hat > 0.7: there log p(x) is a bound, and the difference one of bounds.
        num_data: Number of data N.

    References:
        Vehtari, Gelman and Gabry (2017), Practical Bayesian model evaluation, arXiv:1507.04544, section 5.

    Example:
        >>> from ppl_vae.evidence import reduce_log_weights
        >>> log_w = np.random.default_rng(0).normal(size=(50, 400))
        >>> comparison = compare_models({"a": reduce_log_weights(log_w), "b": reduce_log_weights(log_w - 1.0)})
        >>> comparison.names, comparison.difference.round(6).tolist()
        (('a', 'b'), [0.0, -1.0])
    """

    names: tuple[str, ...]
    log_evidence: np.ndarray
    data_se: np.ndarray
    difference: np.ndarray
    difference_se: np.ndarray
    difference_mc_se: np.ndarray
    share_bad_k: np.ndarray
    num_data: int

    def __str__(self) -> str:
        width = max(5, *map(len, self.names))
        head = f"{'model':<{width}}  log p(x)    se   difference  paired se  of it Monte Carlo  k-hat > 0.7"
        rows = [
            f"{name:<{width}}  {self.log_evidence[i]:8.3f}  {self.data_se[i]:.3f}  {self.difference[i]:9.3f}  "
            f"{self.difference_se[i]:9.3f}  {self.difference_mc_se[i]:17.3f}  {self.share_bad_k[i]:11.1%}"
            for i, name in enumerate(self.names)
        ]
        return "\n".join([head, *rows, f"{self.num_data} data, nats per datum"])


def compare_models(evidence: Mapping[str, Evidence]) -> ModelComparison:
    """Compare models by log p(x) of the same data, in the same order: mean of the paired differences and its error.

    Args:
        evidence: `Evidence` by name, each from `log_evidence` on the same rows (and the same bits, if binarised).

    Returns:
        The comparison: `print` it.

    Raises:
        ValueError: fewer than two models, or different numbers of data.

    References:
        Vehtari, Gelman and Gabry (2017), Practical Bayesian model evaluation, arXiv:1507.04544, section 5.

    Example:
        >>> from ppl_vae.data import beds
        >>> from ppl_vae.evidence import log_evidence
        >>> bed, poor = beds.linear_gaussian(num_data=50), beds.linear_gaussian(num_data=50, noise=1.0)
        >>> pairs = {"true": bed.model, "too noisy": poor.model}
        >>> guides = {"true": bed.guide, "too noisy": poor.guide}
        >>> found = {name: log_evidence(m, guides[name], bed.x, num_particles=30) for name, m in pairs.items()}
        >>> compare_models(found).names[0]
        'true'
    """
    sizes = {name: len(each) for name, each in evidence.items()}
    if len(sizes) < 2 or len(set(sizes.values())) > 1:
        raise ValueError(f"compare_models needs two models or more on the same rows; given {sizes}")
    names = sorted(evidence, key=lambda name: -evidence[name].log_evidence.mean())
    best, num_data = evidence[names[0]], len(evidence[names[0]])
    ordered = [evidence[name] for name in names]
    differences = np.stack([each.log_evidence - best.log_evidence for each in ordered])
    mc_variance = [
        0.0 if each is best else np.square(each.mc_se).sum() + np.square(best.mc_se).sum() for each in ordered
    ]
    return ModelComparison(
        names=tuple(names),
        log_evidence=np.array([each.log_evidence.mean() for each in ordered]),
        data_se=np.array([each.log_evidence.std(ddof=1) for each in ordered]) / num_data**0.5,
        difference=differences.mean(1),
        difference_se=differences.std(1, ddof=1) / num_data**0.5,
        difference_mc_se=np.sqrt(mc_variance) / num_data,
        share_bad_k=np.array([each.summary().share_bad_k for each in ordered]),
        num_data=num_data,
    )

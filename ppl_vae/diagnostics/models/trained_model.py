"""A model in `compare_models`: bounds on log p(x) for each training and row."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ppl_vae.evidence import Evidence, EvidenceInterval
from ppl_vae.evidence.errors import covariance_of_means, row_mean
from ppl_vae.evidence.interval import ESTIMATE

FEWEST_TRAININGS = 3  # enough degrees of freedom for Satterthwaite's rule


@dataclass(frozen=True)
class TrainedModel:
    """One model, trained once or several times."""

    name: str
    found: tuple[Evidence | EvidenceInterval, ...]

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """The lower bound or estimate of log p(x) from each training."""
        return tuple(map(_lower, self.found))

    @property
    def labelled(self) -> dict[str, Evidence]:
        """The trainings by name."""
        if self.trained_once:
            return {self.name: self.evidence[0]}
        return {f"{self.name}[{i}]": each for i, each in enumerate(self.evidence)}

    @cached_property
    def lower(self) -> np.ndarray:
        """Estimate or lower bound of each training and row, (R, N)."""
        return np.stack([each.log_evidence for each in self.evidence])

    @cached_property
    def upper(self) -> np.ndarray:
        """Estimate without its leading bias, or upper bound, infinite if there is none, (R, N)."""
        return np.stack([_upper(each) for each in self.found])

    @cached_property
    def mean(self) -> np.ndarray:
        """Estimate or lower bound of each row, mean over trainings, (N,)."""
        return self.lower.mean(0)

    @property
    def weights(self) -> np.ndarray | None:
        """Weights of the rows, (N,), the same for all trainings."""
        return self.evidence[0].weights

    @property
    def means(self) -> np.ndarray:
        """Mean over the rows of each training, (R,)."""
        return row_mean(self.lower.T, self.weights)

    @property
    def trained_once(self) -> bool:
        """Whether the variation between trainings is unknown."""
        return len(self.found) == 1

    @property
    def training_variance(self) -> float:
        """Variance of the mean over trainings, from their spread; NaN for one."""
        if self.trained_once:
            return np.nan
        return variance_of_mean(self.means)

    @property
    def mc_variance(self) -> float:
        """Monte Carlo variance of the mean over trainings and rows."""
        return sum(each.mean_mc_se**2 for each in self.evidence) / len(self.evidence) ** 2

    @property
    def shared_variance(self) -> float:
        """The part due to draws shared by all rows, which the spread of the rows does not show."""
        shared = [each.mean_mc_se**2 for each in self.evidence if each.shared_errors is not None]
        return sum(shared) / len(self.evidence) ** 2

    @property
    def share_bound(self) -> float:
        """Share of the rows without an estimate, mean over trainings."""
        return float(np.mean([1 - _is_estimate(each).mean() for each in self.found]))

    @property
    def share_bad_k(self) -> float:
        """Share of the rows with k-hat > 0.7, mean over trainings."""
        return float(np.mean([each.summary().share_bad_k for each in self.evidence]))


def variance_of_mean(values: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Variance of the mean of independent values, from their spread."""
    return float(covariance_of_means(values[:, None], weights)[0, 0])


def _lower(found: Evidence | EvidenceInterval) -> Evidence:
    """The estimate or lower bound."""
    return found.lower_bound if isinstance(found, EvidenceInterval) else found


def _upper(found: Evidence | EvidenceInterval) -> np.ndarray:
    """Estimate without its leading bias, or upper bound; infinite if there is none, (N,)."""
    below = _lower(found)
    gap = np.maximum(found.gap, 0.0) if isinstance(found, EvidenceInterval) else np.inf
    low_by = 0.5 * np.square(below.mc_se)  # the log of a mean, in expectation
    return below.log_evidence + np.where(_is_estimate(found), low_by, gap)


def _is_estimate(found: Evidence | EvidenceInterval) -> np.ndarray:
    """Whether log p(x) of each row is an estimate, (N,)."""
    return found.verdict == ESTIMATE if isinstance(found, EvidenceInterval) else found.is_estimate

"""p(y given x) of a class that the model has as a latent: by the model, and by the guide."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.data.validation import as_array, same_index
from ppl_vae.errors import ArgumentError
from ppl_vae.evidence import pooled, reduce_log_weights
from ppl_vae.evidence.errors import error_of_mean, row_mean
from ppl_vae.evidence.fingerprints import row_weights
from ppl_vae.model import Model
from ppl_vae.programs.discrete.cases import Cases, cases_of, values_of
from ppl_vae.programs.discrete.contraction import marked_sites
from ppl_vae.programs.inference import Block, Inference, rows_per_chunk
from ppl_vae.programs.masks import mask_of
from ppl_vae.programs.sites import sample_sites
from ppl_vae.programs.traces import LogTerms, Program, drawing, log_terms, particles_of
from ppl_vae.runtime.checks import echoed, whole_number
from ppl_vae.runtime.display import Shown
from ppl_vae.runtime.text import percent
from ppl_vae.tasks.classes.calibration import ClassCalibration, calibration_of

__all__ = ["ClassProbabilities", "class_probabilities"]


@dataclass(frozen=True, repr=False)
class ClassProbabilities(Shown):
    """p(y given x) of each row.

    Args:
        probabilities: By the model, (N, C).
        se: Monte Carlo standard errors, (N, C).
        ess: Effective sample size of the weights behind them, (N,).
        by_guide: q(y given x), (N, C); None where the guide has none.
        index: Labels of the rows, (N,), which labels given in pandas or xarray must have; None
            matches by position.
        weights: Sampling weights of the rows, (N,), by which `error` and `calibration` are
            weighted; None weights them equally.
        is_estimate: Whether the importance weights are reliable, (N,), as `Evidence.is_estimate` of
            log p(x) from the same draws; elsewhere the errors are larger than `se` says.

    Example:
        >>> found = ClassProbabilities(np.array([[0.3, 0.7]]), np.zeros((1, 2)), np.ones(1), None)
        >>> found.predict()
        array([1])
    """

    probabilities: np.ndarray
    se: np.ndarray
    ess: np.ndarray
    by_guide: np.ndarray | None
    index: Any = None
    weights: np.ndarray | None = None
    is_estimate: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.probabilities)

    def __repr__(self) -> str:
        rows, classes = self.probabilities.shape
        known = "not judged" if self.is_estimate is None else percent(self.is_estimate.mean())
        return f"ClassProbabilities({rows:,} rows, {classes} classes; reliable rows: {known})"

    def predict(self) -> np.ndarray:
        """The most probable class, (N,)."""
        return self.probabilities.argmax(1)

    def error(self, labels: Any) -> tuple[float, float]:
        """Share of the rows whose most probable class is not the true one, and its standard error.

        Args:
            labels: The true classes, 0 to C - 1, (N,).
        """
        wrong = (self.predict() != self._read(labels)).astype(float)
        return float(row_mean(wrong, self.weights)), error_of_mean(wrong, self.weights)

    def calibration(self, labels: Any, *, num_bins: int = 10, seed: int = 0) -> ClassCalibration:
        """Whether the classes are as often right as the probabilities say.

        Args:
            labels: The true classes, 0 to C - 1, (N,).
            num_bins: Number of bins of [0, 1].
            seed: Seed of resampling and of the labels drawn.
        """
        settings: Any = {"weights": self.weights, "num_bins": num_bins, "seed": seed}
        return calibration_of(self.probabilities, self._read(labels), **settings)

    def _read(self, labels: Any) -> np.ndarray:
        same_index(self.index, labels, "labels", "the rows")
        found = as_array(labels)
        if found.shape != (len(self),):
            raise ArgumentError(
                f"labels has shape {found.shape}, and there are {len(self)} rows: give one class "
                "for each row"
            )
        if found.dtype == bool and self.se.shape[1] > 2:
            raise ArgumentError(
                f"labels are booleans, and there are {self.se.shape[1]} classes: give their numbers"
            )
        wrong = np.flatnonzero(~np.isin(found, range(self.se.shape[1])))
        if len(wrong):
            raise ArgumentError(
                f"labels is {found[wrong[0]]!s} at row {wrong[0]}; a class is a whole number from "
                f"0 to {self.se.shape[1] - 1}: give the numbers of names, or leave such rows out"
            )
        return found.astype(int)


def class_probabilities(
    model: Program,
    guide: Program,
    data: Dataset | Any,
    *,
    site: str | None = None,
    num_particles: int = 200,
    seed: int | None = 0,
    progress: bool = True,
) -> ClassProbabilities:
    """p(y = c given x) = sum_k w_kc / sum_kc' w_kc', w_kc = p(x, c, z_kc) / q(z_kc given x, c).

    y is a discrete latent: of the guide (as in `SemiSupervisedGuide`), of the model alone, marked
    `infer={"enumerate": "parallel"}`, or the component of a mixture prior such as
    `priors.GaussianMixture`, whose p(y given x) are responsibilities. As with every importance
    weight, the values are wrong, and `se` too small, where the guide misses a part of the
    posterior: `is_estimate` is then False, unless no draw came near that part. It needs many
    particles to be True, a few thousand where the guide is good.

    Args:
        model: `SemiSupervisedModel`, a `Model` with a mixture as prior, or any Pyro model with a
            discrete latent in the plate "data".
        guide: Its guide.
        data: Rows without their classes.
        site: Name of the latent, where there are several.
        num_particles: Number of particles K for each class.
        seed: Seed of the draws.
        progress: Whether to show a bar.

    Raises:
        ValueError: there is no such latent, or several and no `site`; the class of a row is known.

    References:
        Kingma et al. (2014), Semi-supervised learning with deep generative models,
        arXiv:1406.5298, section 3.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.discrete_mixture(4)
        >>> class_probabilities(bed.model, bed.guide, bed.x).probabilities.sum(1).round(6)
        array([1., 1., 1., 1.])
    """
    inference = Inference(model, guide, data)
    inference.check_programs()
    inference.require_density()
    count = whole_number(num_particles, "num_particles", at_least=1)
    rows = rows_per_chunk(len(inference), count)
    found = []
    evidence = []
    for block in inference.blocks(rows, seed=seed, title="p(y given x)", progress=progress):
        with block.evaluating():
            log_w, log_q = _log_weights(block, site, count)
        found.append((*_reduced(log_w), None if log_q is None else log_q.exp().mean(1).mT))
        evidence.append(reduce_log_weights(log_w.logsumexp(0).cpu().numpy()))
    p, se, ess, q = zip(*found, strict=True)
    by_guide = None if q[0] is None else torch.cat(list(q)).cpu().numpy()
    parts = [torch.cat(list(each)).cpu().numpy() for each in (p, se, ess)]
    data = inference.data
    known: Any = {"index": data.given_index, "weights": row_weights(data)}
    known["is_estimate"] = pooled(evidence).is_estimate
    return ClassProbabilities(parts[0], parts[1], parts[2], by_guide, **known)


def _reduced(log_w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities and standard errors, (B, C), and effective sample size, (B,)."""
    share = log_w.double().transpose(0, 1).flatten(0, 1).softmax(0)  # of all particles and classes
    share = share.unflatten(0, (log_w.shape[1], log_w.shape[0]))  # (K, C, B)
    total = share.sum(1, keepdim=True)
    p = share.sum(0)
    se = (share - p * total).square().sum(0).sqrt()
    return p.mT, se.mT, 1 / total.square().sum((0, 1))


def _log_weights(block: Block, site: str | None, count: int) -> tuple[Tensor, Tensor | None]:
    """log w of each class, (C, K, B), and log q(y given x), where the guide has it."""
    model = block.inference.model
    guide = block.inference.guide
    terms = log_terms(model, guide, *block.args, num_particles=count)
    cases = cases_of(terms, model, guide, *block.args)
    if cases is not None:
        return _of_cases(cases, terms, site)
    marked = marked_sites(sample_sites(terms.model_trace), terms.guide_trace.nodes)
    if marked:
        name = _chosen([each["name"] for each in marked], site)
        return _of_marked(terms, model, guide, block, name), None
    if isinstance(model, Model):
        prior = terms.model_trace.nodes["z"]["fn"]
        if isinstance(prior, torch.distributions.MixtureSameFamily):
            if site is not None:
                raise ValueError(
                    f"site is {echoed(site)}; the classes are the components of the mixture prior, "
                    "which are no site: leave it out"
                )
            z = terms.model_trace.nodes["z"]["value"].unsqueeze(-2)
            log_p = prior.component_distribution.log_prob(z)
            log_p = log_p + prior.mixture_distribution.logits.log_softmax(-1)
            return terms.log_weights + log_p.log_softmax(-1).movedim(-1, 0), None
    asked = "" if site is None else f"site is {echoed(site)}, and "
    raise ValueError(
        f"{asked}neither model nor guide has a discrete latent of at most 1,000 values in the "
        'plate "data", and the prior is no mixture: there is no class to give probabilities of'
    )


def _chosen(names: list[str], site: str | None) -> str:
    """The site that is asked for, or the only one."""
    if site is None and len(names) == 1:
        return names[0]
    if site not in names:
        raise ValueError(f"site is {echoed(site)}; give the discrete latent, one of {names}")
    return site


def _of_cases(cases: Cases, terms: LogTerms, site: str | None) -> tuple[Tensor, Tensor]:
    """Those of one site of the guide, the others summed out."""
    name = _chosen(list(cases.names), site)
    unknown = mask_of(terms.guide_trace.nodes[name])
    if not unknown.all():
        row = int((~unknown).reshape(*terms.log_likelihood.shape, -1).any(-1).any(0).nonzero()[0])
        raise ValueError(f"the class of row {row} is known: give rows without their classes")
    sizes = [len(_values(terms.guide_trace.nodes[each])) for each in cases.names]
    place = cases.names.index(name)
    others = [axis for axis in range(len(sizes)) if axis != place]
    log_w, log_q = (
        each.unflatten(0, sizes).logsumexp(others) if others else each
        for each in (cases.log_weights, cases.log_q_discrete)
    )
    return log_w, log_q


def _of_marked(terms: LogTerms, model: Program, guide: Program, block: Block, name: str) -> Tensor:
    """Those of a site that the model alone has, with the same draws of the guide for each class."""
    site = terms.model_trace.nodes[name]
    values = _values(site)
    latents = [each for each in sample_sites(terms.guide_trace) if not each["is_observed"]]
    drawn = drawing(guide, {each["name"]: each["value"] for each in latents})
    particles = particles_of(terms.model_trace)
    parts = []
    for value in values:
        fixed = poutine.condition(model, data={name: value.expand(site["value"].shape)})
        given: Any = {"num_particles": particles.size}
        parts.append(log_terms(fixed, drawn, *block.args, **given).log_weights)
    return torch.stack(parts)


def _values(site: Any) -> Tensor:
    """All values of a site, of which there are not too many."""
    values = values_of(site)
    if values is None:
        raise ValueError(f"site {site['name']!r} has more than 1,000 values for a row")
    return values

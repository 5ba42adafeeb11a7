"""A prior fitted to the aggregate posterior of a trained model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from ppl_vae.data import Dataset
from ppl_vae.families.modules import at_rest
from ppl_vae.families.shared import shared_latents
from ppl_vae.model import Model
from ppl_vae.objectives import TraceELBO
from ppl_vae.programs.modules import modules_of
from ppl_vae.programs.plates import plate_of_rows
from ppl_vae.programs.traces import Program
from ppl_vae.training import Training, fit

__all__ = ["refit_prior"]


def refit_prior(
    model: Model,
    guide: Program,
    data: Dataset | Any,
    prior: nn.Module,
    *,
    training: Training | None = None,
) -> Model:
    """A model with a prior fitted to the aggregate posterior; likelihood and decoder are shared.

    Maximises mean_n E_q(z given x_n)[log p(z)] over the parameters of the prior, by draws of z from
    the guide. The ELBO is the reconstruction term minus the mutual information of rows and z minus
    KL(q(z) || p(z)), and only the last depends on the prior: the mean ELBO of the training rows
    rises by as much as that KL falls (`elbo_surgery` estimates it). Generated x improve if the old
    prior had mass at z that did not occur in training. Guide, likelihood and decoder are not
    changed; the prior is trained in place.

    Args:
        model: A trained `Model`.
        guide: Its guide, any Pyro guide with the latent site "z".
        data: The training data, as for `fit`; with a validation split, its bound is recorded.
        prior: The new prior, such as `priors.GaussianMixture(2)` or `priors.FlowPrior(2)`.
        training: Settings; None is `Training()`.

    Returns:
        A new model with this prior.

    Raises:
        ValueError: the prior has another latent dimension than the model, or no parameters of its
            own.

    References:
        Hoffman and Johnson (2016), ELBO surgery, NIPS workshop on advances in approximate Bayesian
        inference; Ghosh et al. (2020), From variational to deterministic autoencoders,
        arXiv:1903.12436, section 4 (ex-post density estimation).

    Example:
        >>> from ppl_vae import beds
        >>> from ppl_vae.families import likelihoods, posteriors, priors
        >>> from ppl_vae.guide import Guide
        >>> x = beds.linear_gaussian(num_data=100).x
        >>> model = Model(priors.StandardNormal(2), likelihoods.Gaussian(x.shape[1]))
        >>> guide = Guide(posteriors.MeanFieldNormal(2), x.shape[1])
        >>> few = Training(num_epochs=1, progress=False)
        >>> refit_prior(model, guide, x, priors.GaussianMixture(2), training=few).prior
        GaussianMixture(2, num_components=10)
    """
    for each in (model.prior, prior):
        if shared_latents(each):
            raise ValueError(
                f"{type(each).__name__} has latents that rows share, which a prior fitted to the "
                "latents of single rows cannot have: fit model and guide together"
            )
    refitted = model.with_prior(prior)
    with frozen(model.likelihood, model.decoder, *modules_of(guide)):
        if not any(parameter.requires_grad for parameter in prior.parameters()):
            raise ValueError(
                f"{type(prior).__name__} has no parameters of its own to fit: use GaussianMixture "
                "or FlowPrior"
            )
        alone = PriorAlone(prior, model.covariates)
        fit(alone, AtRest(guide), data, objective=TraceELBO(), training=training)
    return refitted


class PriorAlone(nn.Module):
    """A Pyro model of the latents alone: its ELBO is minus the mean of KL(q(z given x) || p(z))."""

    def __init__(self, prior: nn.Module, covariates: nn.Module) -> None:
        super().__init__()
        self.prior = prior
        self.covariates = covariates

    def forward(self, x: Tensor, context: Tensor | None = None) -> None:
        """z, and a likelihood of one."""
        with plate_of_rows(len(x)):
            pyro.sample("z", self.prior(self.covariates(context)))
            pyro.factor("x", x.new_zeros(len(x)))


class AtRest(nn.Module):
    """A guide in evaluation mode and without gradients, even while other modules are trained."""

    def __init__(self, guide: Program) -> None:
        super().__init__()
        self.guide = guide

    def forward(self, *args: Any) -> Any:
        """The Pyro guide."""
        with at_rest(*modules_of(self.guide)), torch.no_grad():
            return self.guide(*args)


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """No parameter of these modules requires a gradient within."""
    trainable = [p for module in modules for p in module.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)

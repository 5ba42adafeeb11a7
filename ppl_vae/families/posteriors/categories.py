"""Posteriors over classes."""

from typing import override

import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from ppl_vae.families.densities.latents import LogConcrete, ScatteredOneHot, log_simplex
from ppl_vae.families.posteriors.posterior import Posterior
from ppl_vae.runtime.checks import real_number, whole_number

__all__ = ["Categorical", "RelaxedCategorical"]


class Categorical(Posterior):
    """q(z = e_c given x) = softmax(logits(x))_c, z one of the D unit vectors: a latent class.

    Draws have no path derivative: train with
    `objectives.IWAE(10, gradient=objectives.VIMCO())` or
    `objectives.TraceELBO(10, gradient=objectives.ScoreFunction())`. For `priors.Categorical`.

    Args:
        latent_dim: Number of classes D, at least 2.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape (D,)

    References:
        Mnih and Rezende (2016), Variational inference for Monte Carlo objectives, arXiv:1602.06725.

    Example:
        >>> posterior = Categorical(4)
        >>> posterior.build((10,))
        >>> posterior(torch.zeros(5, 10)).sample().sum(-1)
        tensor([1., 1., 1., 1., 1.])
    """

    support = constraints.one_hot

    def __init__(self, latent_dim: int) -> None:
        super().__init__(whole_number(latent_dim, "latent_dim of classes", at_least=2))
        self.num_parameters = self.latent_dim

    @override
    def distribution(self, raw: Tensor) -> ScatteredOneHot:
        return ScatteredOneHot(logits=raw)


class RelaxedCategorical(Posterior):
    """z = log softmax((logits(x) + g) / t), g independent Gumbels: for `priors.RelaxedCategorical`.

    Prior and posterior are on the same space, so that the bound is one on the log p(x) of the
    relaxed model; that of `Categorical` is another number. Both have temperatures of their own.

    Args:
        latent_dim: Number of classes D, at least 2.
        temperature: t. It is a buffer: `posterior.temperature.fill_(0.4)` anneals it between two
            fits.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape (D,)

    Raises:
        ValueError: `temperature` is not positive.

    References:
        Maddison, Mnih and Teh (2017), The Concrete distribution, arXiv:1611.00712, section 3.3 and
        appendix C.3 (logarithms, temperatures); Jang, Gu and Poole (2017), Categorical
        reparameterization with Gumbel-softmax, arXiv:1611.01144.

    Example:
        >>> posterior = RelaxedCategorical(4)
        >>> posterior.build((10,))
        >>> posterior(torch.zeros(5, 10)).rsample().shape
        torch.Size([5, 4])
    """

    support = log_simplex

    def __init__(self, latent_dim: int, temperature: float = 2 / 3) -> None:
        super().__init__(whole_number(latent_dim, "latent_dim of classes", at_least=2))
        self.num_parameters = self.latent_dim
        self.temperature = nn.Buffer(torch.tensor(real_number(temperature, "temperature", above=0)))

    @override
    def distribution(self, raw: Tensor) -> LogConcrete:
        return LogConcrete(self.temperature, logits=raw)

    @override
    def extra_repr(self) -> str:
        return f"{self.latent_dim}, temperature={self.temperature.item():.3g}"

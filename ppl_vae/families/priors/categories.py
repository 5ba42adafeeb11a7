"""Priors over classes."""

from typing import override

import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from ppl_vae.families.densities.latents import LogConcrete, ScatteredOneHot, log_simplex
from ppl_vae.families.priors.prior import Prior
from ppl_vae.runtime.checks import real_number, whole_number

__all__ = ["Categorical", "RelaxedCategorical"]


class Categorical(Prior):
    """p(z = e_c) = softmax(logits)_c, z one of the D unit vectors: a latent class.

    With the identity as decoder the model is a finite mixture: the likelihood's linear map is then
    a table of each class's parameters. The posterior is `posteriors.Categorical`, whose draws have
    no path derivative: train with `VIMCO` or `ScoreFunction` as the gradient.

    Args:
        latent_dim: Number of classes D, at least 2.

    Shape:
        batch_shape (), event_shape (D,)

    References:
        McLachlan and Peel (2000), Finite mixture models, chapter 1.

    Example:
        >>> Categorical(4)().log_prob(torch.eye(4)).exp()
        tensor([0.2500, 0.2500, 0.2500, 0.2500], grad_fn=<ExpBackward0>)
    """

    support = constraints.one_hot

    def __init__(self, latent_dim: int) -> None:
        super().__init__(whole_number(latent_dim, "latent_dim of classes", at_least=2))
        self.logits = nn.Parameter(torch.zeros(self.latent_dim))

    @override
    def forward(self, context: Tensor | None = None) -> ScatteredOneHot:
        return ScatteredOneHot(logits=self.logits)


class RelaxedCategorical(Prior):
    """z = log softmax((logits + g) / t), g independent Gumbels: log shares near those of one class.

    The Concrete distribution, by the logarithms of the shares, which do not underflow; the decoder
    reads the shares exp(z). Draws have a path derivative, so that every objective trains it. It is
    another model than that of `Categorical`: log p(x) is that of shares, not of classes, and tends
    to it only as the temperature t of prior and posterior falls to 0, where gradients grow noisy.
    The posterior is `posteriors.RelaxedCategorical`; KL is Monte Carlo.

    Args:
        latent_dim: Number of classes D, at least 2.
        temperature: t. It is a buffer: `prior.temperature.fill_(0.3)` changes it between two fits.

    Shape:
        batch_shape (), event_shape (D,)

    Raises:
        ValueError: `temperature` is not positive.

    References:
        Maddison, Mnih and Teh (2017), The Concrete distribution, arXiv:1611.00712; Jang, Gu and
        Poole (2017), Categorical reparameterization with Gumbel-softmax, arXiv:1611.01144.

    Example:
        >>> RelaxedCategorical(3)().sample().shape
        torch.Size([3])
    """

    support = log_simplex

    def __init__(self, latent_dim: int, temperature: float = 0.5) -> None:
        super().__init__(whole_number(latent_dim, "latent_dim of classes", at_least=2))
        self.logits = nn.Parameter(torch.zeros(self.latent_dim))
        self.temperature = nn.Buffer(torch.tensor(real_number(temperature, "temperature", above=0)))

    @override
    def forward(self, context: Tensor | None = None) -> LogConcrete:
        return LogConcrete(self.temperature, logits=self.logits)

    def decoded(self, z: Tensor) -> Tensor:
        """The shares."""
        return z.exp()

    @override
    def extra_repr(self) -> str:
        return f"{self.latent_dim}, temperature={self.temperature.item():.3g}"

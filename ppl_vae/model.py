"""Model = prior + decoder + likelihood: the Pyro model, sites "z" and "x", plate "data"."""

import itertools

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.families.likelihoods import Likelihood
from ppl_vae.families.missing import observed_part
from ppl_vae.families.networks import MLP, join, read_features, require_module

__all__ = ["Model"]

_numbers = (
    itertools.count()
)  # a name of its own for each model in Pyro's parameter store: two of them never share weights


class Model(PyroModule):
    """A VAE's generative model: z ~ p(z given c), x ~ p(x given z, c).

    log p(x, z) = log p(z given c) + sum_i log p(x_i given z, c), the sum over observed elements of x (NaN is missing).
    A plain Pyro model: for `pyro.infer.SVI`, `pyro.poutine.trace`, `pyro.infer.Predictive`, `pyro.render_model`.

    Args:
        prior: p(z), one of `priors` or any module that returns a distribution with event shape (D,).
        likelihood: p(x given features), one of `likelihoods`.
        decoder: Any module from z (and context, appended) to features; None gives an `MLP` of 2 x 256.
        context_dim: Number of covariates c; 0 for none.
        start: Training data, (N, *event): the likelihood then starts from the marginal of each x_i in them, and the
            networks have only to learn what differs between data. Worth nats early in training.

    Shape:
        x (B, *event), context (B, context_dim); under a particle plate of size K, z is (K, B, D)

    Raises:
        ValueError: x lies outside the likelihood's support, or context is missing or unexpected.

    References:
        Kingma and Welling (2014), Auto-encoding variational Bayes, arXiv:1312.6114, section 2.1.

    Example:
        >>> from ppl_vae.families import likelihoods, priors
        >>> model = Model(priors.StandardNormal(2), likelihoods.Bernoulli(5))
        >>> model(torch.zeros(3, 5)).shape
        torch.Size([3, 5])
        >>> model(num_data=4).shape
        torch.Size([4, 5])
    """

    def __init__(
        self,
        prior: nn.Module,
        likelihood: Likelihood,
        decoder: nn.Module | None = None,
        *,
        context_dim: int = 0,
        start: Tensor | None = None,
    ) -> None:
        super().__init__(name=f"model_{next(_numbers)}")
        for name, part in (("prior", prior), ("likelihood", likelihood)):
            require_module(part, name)
        self.context_dim = context_dim
        context = torch.zeros(1, context_dim) if context_dim else None
        with torch.no_grad():
            self.latent_dim = prior(context).event_shape[0]
        example = join(torch.zeros(1, self.latent_dim), 1, context=context)
        decoder = MLP(example.shape[-1]) if decoder is None else decoder
        likelihood.build(read_features(decoder, example, "decoder"))
        if start is not None:
            likelihood.start_at(start)
        self.prior, self.likelihood, self.decoder = prior, likelihood, decoder

    def forward(self, x: Tensor | None = None, context: Tensor | None = None, *, num_data: int = 1) -> Tensor:
        """The Pyro model; without x it generates (`num_data` rows, or one per row of context)."""
        # Pyro's own validation switch: `fit` and `log_evidence` check the data once, then turn it off for speed.
        if x is not None and torch.distributions.Distribution._validate_args:
            self.check(x, context)
        given = x if x is not None else context
        with pyro.plate("data", num_data if given is None else len(given), dim=-1):
            z = pyro.sample("z", self.prior(context))
            likelihood = self.decode(z, context)
            if x is None:
                return pyro.sample("x", likelihood)
            observed, values = observed_part(likelihood, x)
            return pyro.sample("x", observed, obs=values)

    def decode(self, z: Tensor, context: Tensor | None = None) -> dist.Independent:
        """p(x given z, c), batch dims of z to the left."""
        return self.likelihood(self.decoder(join(z, 1, context=context)))

    def sample(self, num_samples: int = 1, context: Tensor | None = None) -> Tensor:
        """Draws of x from the model, (num_samples, *event), or one per row of context."""
        with torch.no_grad(), pyro.poutine.block():
            return self(context=context, num_data=num_samples)

    def check(self, x: Tensor, context: Tensor | None = None) -> None:
        """Raise ValueError unless x lies in the likelihood's support and context is as declared."""
        check_context(context, self.context_dim, "Model")
        self.likelihood.check(x)

    def concerns(self, z: Tensor, context: Tensor | None = None) -> list[str]:
        """What the likelihood has to say of its fitted parameters at these z."""
        return self.likelihood.concerns(self.decoder(join(z, 1, context=context)))


def check_context(context: Tensor | None, context_dim: int, name: str) -> None:
    """Raise unless covariates are given exactly where they are expected."""
    found = 0 if context is None else context.shape[-1]
    if found != context_dim:
        remedy = f"construct it with context_dim={found}" if found else "pass context="
        raise ValueError(f"{name} takes {context_dim} covariates and was given {found}: {remedy}")

"""Networks of rows with missing entries, as sets of what was observed."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ppl_vae.errors import ArgumentError
from ppl_vae.families.modules import shape_of
from ppl_vae.families.networks.dense import MLP
from ppl_vae.families.part import Part
from ppl_vae.runtime.checks import echoed, one_of, whole_number
from ppl_vae.runtime.memory import require_memory

__all__ = ["SetEncoder"]


class SetEncoder(Part, nn.Module):
    """Pools a network of each observed (value, feature): what is missing plays no part.

    f(x) = g(pool over observed i of h(x_i, x_i e_i, e_i)), e_i a learned embedding of feature i.
    Permuting features with their embeddings changes nothing. An `MLP` of zero-imputed x has to
    learn what each missing value would have been; this sees only what is there, and serves rows of
    which most is missing. Give the `Guide` `missing=True`; without the indicator all features
    count as observed. A category has the embedding of its level in the place of x_i e_i.

    Args:
        event_shape: Shape of one observation, without indicator and covariates.
        hidden_dims: Widths of h; g has one layer of the last width.
        embedding_dim: Length of e_i.
        context_dim: Number of covariates, which g reads beside the pool.
        pooling: "mean" or "sum" over the observed features.
        categories: Number of levels by place, for the features that hold categories; a guide with
            `start=data` turns these into indicators.

    Shape:
        (*batch, J), or with indicator (*batch, 2 J), and covariates -> (*batch, hidden_dims[-1]);
        with categories the numbers come first, then an indicator of each level

    Raises:
        ValueError: the input has neither width.

    References:
        Ma et al. (2019), EDDI: efficient dynamic discovery of high-value information with partial
        VAE, arXiv:1809.11142, section 3.2 (pointnet plus); Zaheer et al. (2017), Deep sets,
        arXiv:1703.06114.

    Example:
        >>> SetEncoder(3, (32,))(torch.tensor([[0.1, 0.0, 2.0, 1.0, 0.0, 1.0]])).shape
        torch.Size([1, 32])
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        hidden_dims: Sequence[int] = (64, 64),
        *,
        embedding_dim: int = 16,
        context_dim: int = 0,
        pooling: Literal["mean", "sum"] = "mean",
        categories: Mapping[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.num_features = shape_of(event_shape).numel()
        self.context_dim = whole_number(context_dim, "context_dim", at_least=0)
        self.pooling = one_of(pooling, "SetEncoder(pooling)", ("mean", "sum"))
        size = whole_number(embedding_dim, "embedding_dim")
        if not isinstance(categories, Mapping | None):
            raise ArgumentError(
                f"categories is {echoed(categories)}; it must be a dict of the number of levels "
                "by place, as in {2: 4}"
            )
        self.categories = dict(categories or {})
        self.numbers = [i for i in range(self.num_features) if i not in self.categories]
        require_memory("embedding_dim", self.num_features, size)
        self.embedding = nn.Parameter(torch.randn(self.num_features, size) / size**0.5)
        levels = sum(self.categories.values())
        self.levels = nn.Parameter(torch.randn(levels, size) / size**0.5) if levels else None
        self.element = MLP(1 + 2 * size, hidden_dims)
        *_, width = shape_of(hidden_dims, "hidden_dims")
        self.pooled = MLP(width + self.context_dim, (width,))

    def forward(self, x: Tensor) -> Tensor:
        """Features of a row's observed entries."""
        inputs, observed, context = self._parts(x)
        values, products = self._values(inputs)
        own = self.embedding.expand(*observed.shape, -1)
        elements = self.element(torch.cat([values.unsqueeze(-1), products, own], dim=-1))
        total = (observed.unsqueeze(-1) * elements).sum(-2)
        if self.pooling == "mean":
            total = total / observed.sum(-1, keepdim=True).clamp(min=1)
        return self.pooled(torch.cat([total, context], dim=-1))

    def _values(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """x_i, (*batch, J), with 1 for categories, and x_i e_i, or the embedding of the level."""
        if self.levels is None:
            return inputs, inputs.unsqueeze(-1) * self.embedding
        sizes = [len(self.numbers), *self.categories.values()]
        numbers, *indicators = inputs.split(sizes, dim=-1)
        weights = self.levels.split(sizes[1:])
        values = torch.ones_like(inputs[..., : self.num_features])
        values[..., self.numbers] = numbers
        products = values.unsqueeze(-1) * self.embedding
        for place, levels, chosen in zip(self.categories, weights, indicators, strict=True):
            products[..., place, :] = chosen @ levels
        return values, products

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values, indicator and covariates."""
        width = len(self.numbers) + sum(self.categories.values())
        rest = x.shape[-1] - self.context_dim
        if rest not in (width, width + self.num_features):
            raise ValueError(
                f"SetEncoder({self.num_features}, context_dim={self.context_dim}) got inputs of "
                f"width {x.shape[-1]}: give the number of features and of covariates, and the "
                "number of levels of each category, categories={place: levels}"
            )
        inputs = x[..., :width]
        observed = x[..., width:rest]
        if rest == width:
            observed = torch.ones_like(x[..., :1]).expand(*x.shape[:-1], self.num_features)
        return inputs, observed, x[..., rest:]

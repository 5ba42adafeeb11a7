"""Networks of rows with missing entries, as sets of what was observed."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ppl_vae.families.modules import shape_of
from ppl_vae.families.networks.dense import MLP
from ppl_vae.runtime.checks import one_of, whole_number

__all__ = ["SetEncoder"]


class SetEncoder(nn.Module):
    """Pools a network of each observed (value, feature): what is missing plays no part.

    f(x) = g(pool over observed i of h(x_i, x_i e_i, e_i)), e_i a learned embedding of feature i.
    Permuting features with their embeddings changes nothing. An `MLP` of zero-imputed x has to
    learn what each missing value would have been; this sees only what is there, and serves rows of
    which most is missing. Give the `Guide` `missing=True`; without the indicator all features
    count as observed. Categories that the guide turns into indicators are refused.

    Args:
        event_shape: Shape of one observation, without indicator and covariates.
        hidden_dims: Widths of h; g has one layer of the last width.
        embedding_dim: Length of e_i.
        context_dim: Number of covariates, which g reads beside the pool.
        pooling: "mean" or "sum" over the observed features.

    Shape:
        (*batch, J), or with indicator (*batch, 2 J), and covariates -> (*batch, hidden_dims[-1])

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
    ) -> None:
        super().__init__()
        self.num_features = shape_of(event_shape).numel()
        self.context_dim = whole_number(context_dim, "context_dim", at_least=0)
        self.pooling = one_of(pooling, "SetEncoder(pooling)", ("mean", "sum"))
        size = whole_number(embedding_dim, "embedding_dim")
        self.embedding = nn.Parameter(torch.randn(self.num_features, size) / size**0.5)
        self.element = MLP(1 + 2 * size, hidden_dims)
        width = whole_number(hidden_dims[-1], "hidden_dims")
        self.pooled = MLP(width + self.context_dim, (width,))

    def forward(self, x: Tensor) -> Tensor:
        """Features of a row's observed entries."""
        values, observed, context = self._parts(x)
        products = values.unsqueeze(-1) * self.embedding
        own = self.embedding.expand(*values.shape, -1)
        elements = self.element(torch.cat([values.unsqueeze(-1), products, own], dim=-1))
        total = (observed.unsqueeze(-1) * elements).sum(-2)
        if self.pooling == "mean":
            total = total / observed.sum(-1, keepdim=True).clamp(min=1)
        return self.pooled(torch.cat([total, context], dim=-1))

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values, indicator and covariates."""
        width = x.shape[-1] - self.context_dim
        if width not in (self.num_features, 2 * self.num_features):
            raise ValueError(
                f"SetEncoder({self.num_features}, context_dim={self.context_dim}) got inputs of "
                f"width {x.shape[-1]}: give the number of features and of covariates, and no "
                "columns of categories"
            )
        values = x[..., : self.num_features]
        observed = x[..., self.num_features : width]
        if width == self.num_features:
            observed = torch.ones_like(values)
        return values, observed, x[..., width:]

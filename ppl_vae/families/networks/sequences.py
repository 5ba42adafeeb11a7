"""Networks of sequences, to features and from latents."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ppl_vae.families.modules import linear, shape_of
from ppl_vae.families.networks.dense import MOST_LAYERS
from ppl_vae.families.part import Part
from ppl_vae.runtime.checks import whole_number
from ppl_vae.runtime.memory import require_memory

__all__ = ["GRU", "GRUDecoder"]


def recurrent(num_in: int, width: int, num_layers: int) -> nn.GRU:
    """A recurrent network whose weights fit into memory.

    Raises:
        TooLargeError: They do not.

    Example:
        >>> recurrent(2, 3, 1)
        GRU(2, 3, batch_first=True)
    """
    whole_number(width, "width")
    whole_number(num_layers, "num_layers", at_most=MOST_LAYERS)
    weights = 3 * width * (num_in + width + (num_layers - 1) * 2 * width)
    require_memory(f"width={width} and num_layers={num_layers} of {num_in:,} inputs", weights)
    return nn.GRU(num_in, width, num_layers, batch_first=True)


class GRU(Part, nn.Module):
    """A gated recurrent network over time, read at the last observed step of each row.

    x are T steps of J values. Sequences of unequal length are filled with NaN at the end: with
    `Guide(missing=True)` the indicator tells where a row ends, and gaps inside are read as such.

    Args:
        in_shape: (T, J), or (T,) for one value at each step.
        width: Number of features.
        num_layers: Number of recurrent layers.

    Shape:
        (B, *in_shape), or with indicator (B, 2, T, J) or (B, 2 T) -> (B, width)

    References:
        Cho et al. (2014), Learning phrase representations using RNN encoder-decoder,
        arXiv:1406.1078; Che et al. (2018), Recurrent neural networks for multivariate time series
        with missing values, arXiv:1606.01865 (the indicator as an input).

    Example:
        >>> GRU((7, 3), width=16)(torch.zeros(5, 2, 7, 3)).shape
        torch.Size([5, 16])
    """

    def __init__(
        self, in_shape: int | Sequence[int], width: int = 64, *, num_layers: int = 1
    ) -> None:
        super().__init__()
        steps, *values = shape_of(in_shape, "in_shape")
        self.steps = whole_number(steps, "in_shape")
        self.num_values = values[0] if values else 1
        self.network = recurrent(2 * self.num_values, width, num_layers)

    def forward(self, x: Tensor) -> Tensor:
        """The state after the last observed step."""
        parts = x.reshape(len(x), -1, self.steps, self.num_values)
        values = parts[:, 0]
        observed = parts[:, 1] if parts.shape[1] == 2 else torch.ones_like(values)
        states, _ = self.network(torch.cat([values, observed], dim=-1))
        ends = torch.arange(1, self.steps + 1, device=x.device) * observed.amax(-1)
        last = (ends.amax(-1).long() - 1).clamp(min=0)
        return states.gather(1, last[:, None, None].expand(-1, 1, states.shape[-1])).squeeze(1)


class GRUDecoder(Part, nn.Module):
    """A gated recurrent network that reads z (and covariates) anew at each of T steps.

    Not autoregressive: a step sees z and the steps before through the state, and no value of x. The
    last map to the likelihood's parameters is the same at each step. Rows that end early are filled
    with NaN, which every likelihood leaves out; their first steps are decoded as those of long
    ones, and draws have all T steps.

    Args:
        in_dim: Number of latent dimensions and covariates.
        event_shape: (T, J), or (T,) for one value at each step.
        width: Width of the state, and number of features of each value.
        num_layers: Number of recurrent layers.

    Shape:
        (B, in_dim) -> (B, width, *event_shape)

    References:
        Cho et al. (2014), Learning phrase representations using RNN encoder-decoder,
        arXiv:1406.1078; Fabius and van Amersfoort (2015), Variational recurrent auto-encoders,
        arXiv:1412.6581.

    Example:
        >>> GRUDecoder(2, (7, 3), width=16)(torch.zeros(5, 2)).shape
        torch.Size([5, 16, 7, 3])
    """

    def __init__(
        self,
        in_dim: int,
        event_shape: int | Sequence[int],
        *,
        width: int = 64,
        num_layers: int = 1,
    ) -> None:
        super().__init__()
        self.event_shape = shape_of(event_shape)
        self.width = whole_number(width, "width")
        num_values = self.event_shape[1:].numel()
        self.network = recurrent(whole_number(in_dim, "in_dim"), width, num_layers)
        self.values = linear(self.width, self.width * num_values)

    def forward(self, z: Tensor) -> Tensor:
        """Features of each value at each step."""
        steps = z.unsqueeze(1).expand(-1, self.event_shape[0], -1)
        states, _ = self.network(steps)
        features = self.values(states).tanh().unflatten(-1, (self.width, -1))
        return features.movedim(2, 1).reshape(len(z), self.width, *self.event_shape)

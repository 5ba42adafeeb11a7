"""Units of the observations: where the elements of x lie and how far they spread."""

from collections.abc import Sequence
from typing import Any, override

import torch
from torch import Tensor, nn

from ppl_vae.families.modules import shape_of

__all__ = ["Units"]


class Units(nn.Module):
    """Each x_i in units of its own: y_i = (t(x_i) - centre_i) / unit_i, t the identity or log1p.

    The centre and the unit are the mean and the standard deviation of t(x_i) in the rows that
    `fit_to` is given; before that they are 0 and 1. Constant elements have the unit 1.

    Args:
        event_shape: Shape of one observation.

    Shape:
        x (*batch, *event_shape) -> (*batch, *event_shape); NaN stays NaN

    References:
        LeCun, Bottou, Orr and Müller (1998), Efficient BackProp, section 4.3 (normalising inputs).

    Example:
        >>> units = Units(2)
        >>> units.fit_to(torch.tensor([[0.0, 1.0], [4.0, 2.0]]))
        >>> units(torch.tensor([[4.0, 1.5]]))
        tensor([[1., 0.]])
    """

    centre: Tensor
    unit: Tensor
    logged: Tensor

    def __init__(self, event_shape: int | Sequence[int]) -> None:
        super().__init__()
        shape = shape_of(event_shape)
        self.register_buffer("centre", torch.zeros(shape))
        self.register_buffer("unit", torch.ones(shape))
        self.register_buffer("logged", torch.zeros(()))
        self._read()

    def fit_to(self, x: Tensor, *, log1p: bool = False) -> None:
        """Take t, and the centre and unit of each element from these rows, (N, *event_shape)."""
        self.logged.fill_(float(log1p))
        self._read()
        y = self._transformed(x.double())
        centre = y.nanmean(0)
        self.set(centre, (y - centre).square().nanmean(0).sqrt())

    def set(self, centre: Tensor, unit: Tensor) -> None:
        """Take this centre and unit; 0 and 1 where they are unknown, 1 where the unit is zero."""
        self.centre.copy_(centre.nan_to_num())
        self.unit.copy_(torch.where(unit > 0, unit, 1.0))
        self._read()

    @override
    def forward(self, x: Tensor) -> Tensor:
        return (self._transformed(x) - self.centre) / self.unit if self.is_set else x

    @override
    def extra_repr(self) -> str:
        return " x ".join(map(str, self.centre.shape))

    def _transformed(self, x: Tensor) -> Tensor:
        return x.clamp(min=0).log1p() if self.takes_logs else x

    def _read(self) -> None:
        """Read from the buffers what each step would otherwise compute for nothing."""
        self.takes_logs = bool(self.logged > 0)
        trivial = (self.centre == 0).all() and (self.unit == 1).all()
        self.is_set = self.takes_logs or not bool(trivial)

    @override
    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Weights of an earlier version have no units: x is then taken as it is."""
        for name, buffer in self.named_buffers():
            state_dict.setdefault(prefix + name, buffer)
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._read()

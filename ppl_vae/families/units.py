"""Units of the observations: where the elements of x lie and how far they spread."""

from collections.abc import Mapping, Sequence
from typing import Any, override

import torch
from torch import Tensor, nn

from ppl_vae.families.modules import shape_of

__all__ = ["CovariateUnits", "Encoding", "Units"]


class Units(nn.Module):
    """Each x_i in units of its own: y_i = (x_i - centre_i) / unit_i.

    Before `set` they are 0 and 1. Constant elements have the unit 1.

    Args:
        event_shape: Shape of one observation.

    Shape:
        x (*batch, *event_shape) -> (*batch, *event_shape); NaN stays NaN

    References:
        LeCun, Bottou, Orr and Müller (1998), Efficient BackProp, section 4.3 (normalising inputs).

    Example:
        >>> units = Units(2)
        >>> units.set(torch.tensor([2.0, 1.5]), torch.tensor([2.0, 0.0]))
        >>> units(torch.tensor([[4.0, 1.5]]))
        tensor([[1., 0.]])
    """

    centre: Tensor
    unit: Tensor

    def __init__(self, event_shape: int | Sequence[int]) -> None:
        super().__init__()
        shape = torch.Size((0,)) if event_shape == 0 else shape_of(event_shape)  # no covariates
        self.register_buffer("centre", torch.zeros(shape))
        self.register_buffer("unit", torch.ones(shape))
        self._read()

    def set(self, centre: Tensor, unit: Tensor) -> None:
        """Take this centre and unit; 0 and 1 where they are unknown, 1 where the unit is zero."""
        self.centre.copy_(centre.nan_to_num())
        self.unit.copy_(torch.where(unit > 0, unit, 1.0))
        self._read()

    @override
    def forward(self, x: Tensor) -> Tensor:
        return (x - self.centre) / self.unit if self.is_set else x

    @override
    def extra_repr(self) -> str:
        return " x ".join(map(str, self.centre.shape))

    def _read(self) -> None:
        """Read from the buffers what each step would otherwise compute for nothing."""
        self.is_set = not bool((self.centre == 0).all() and (self.unit == 1).all())

    @override
    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Weights of an earlier version have no units: x is then taken as it is."""
        for name, buffer in self.named_buffers():
            state_dict.setdefault(prefix + name, buffer)
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._read()


class Encoding(Units):
    """What an encoder reads: standardised numbers, and an indicator for each level of a category.

    A number is y = (t(x) - mean) / sd with t(x) = x or, for counts and positive values,
    log(1 + x / a); mean, sd and a are those of the rows that `fit_to` is given. A category with C
    levels becomes C indicators max(0, 1 - |x - c|), which follow the numbers.

    Args:
        event_shape: Shape of one observation.
        categories: Number of levels by place, for the elements that hold categories.

    Shape:
        x (*batch, *event_shape) -> (*batch, *event_shape), or (*batch, inputs) with categories;
        NaN stays NaN

    References:
        LeCun, Bottou, Orr and Müller (1998), Efficient BackProp, section 4.3 (normalising inputs);
        Lopez et al. (2018), Deep generative modeling for single-cell transcriptomics,
        doi:10.1038/s41592-018-0229-2 (log(1 + x) for counts).

    Example:
        >>> encoding = Encoding(2, categories={1: 3})
        >>> encoding.fit_to(torch.tensor([[0.0, 1.0], [4.0, 2.0]]))
        >>> encoding(torch.tensor([[4.0, 2.0]]))
        tensor([[1., 0., 0., 1.]])
    """

    logged: Tensor

    def __init__(
        self, event_shape: int | Sequence[int], categories: Mapping[int, int] | None = None
    ) -> None:
        self.takes_logs = False
        super().__init__(event_shape)
        self.categories = dict(categories or {})
        self.numbers = [i for i in range(len(self.centre)) if i not in self.categories]
        self.register_buffer("logged", torch.zeros(self.centre.shape))

    def fit_to(self, x: Tensor, logged: Tensor | None = None) -> None:
        """Take mean and sd of t(x) in these rows, (N, *event_shape).

        Args:
            x: The rows.
            logged: The number a for each element with t(x) = log(1 + x / a), 0 where t(x) = x.
        """
        if logged is not None:
            self.logged.copy_(logged)
        self._read()
        y = self._transformed(x.double())
        centre = y.nanmean(0)
        self.set(centre, (y - centre).square().nanmean(0).sqrt())

    @override
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(self._transformed(x))
        if not self.categories:
            return y
        indicators = [
            (1 - (x[..., [place]] - torch.arange(size).to(x)).abs()).clamp(min=0)
            for place, size in self.categories.items()
        ]
        return torch.cat([y[..., self.numbers], *indicators], dim=-1)

    def _transformed(self, x: Tensor) -> Tensor:
        if not self.takes_logs:
            return x
        scale = torch.where(self.logged > 0, self.logged, 1.0)
        return torch.where(self.logged > 0, (x.clamp(min=0) / scale).log1p(), x)

    @override
    def _read(self) -> None:
        super()._read()
        self.takes_logs = "logged" in self._buffers and bool((self.logged > 0).any())


class CovariateUnits(nn.Module):
    """Covariates in units of the training rows: (c - mean) / sd; indicators stay as they are.

    Args:
        context_dim: Number of covariates.

    Shape:
        context (*batch, context_dim) -> (*batch, context_dim)

    References:
        LeCun, Bottou, Orr and Müller (1998), Efficient BackProp, section 4.3 (normalising inputs).

    Example:
        >>> units = CovariateUnits(2)
        >>> units.fit_to(torch.tensor([[20.0, 0.0], [40.0, 1.0]]))
        >>> units(torch.tensor([[50.0, 1.0]]))
        tensor([[2., 1.]])
    """

    def __init__(self, context_dim: int) -> None:
        super().__init__()
        self.units = Units(context_dim)

    def fit_to(self, context: Tensor) -> None:
        """Take mean and sd of these rows, (N, context_dim), where not all values are 0 or 1."""
        indicators = ((context == 0) | (context == 1)).all(0)
        centre = context.double().mean(0)
        unit = context.double().std(0, correction=0)
        self.units.set(torch.where(indicators, 0.0, centre), torch.where(indicators, 1.0, unit))

    def forward(self, context: Tensor | None) -> Tensor | None:
        """The covariates in these units; none where there are none."""
        return None if context is None else self.units(context)

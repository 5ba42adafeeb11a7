"""Classes relaxed to shares, by their logarithms."""

from typing import Any, override

from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

__all__ = ["LogConcrete", "log_simplex"]


class _LogSimplex(constraints.Constraint):
    """Logarithms of shares, which are positive and add up to one."""

    event_dim = 1

    @override
    def check(self, value: Tensor) -> Tensor:
        return value.logsumexp(-1).abs() < 1e-4


log_simplex = _LogSimplex()


class LogConcrete(ExpRelaxedCategorical, TorchDistributionMixin):
    """y = log softmax((logits + g) / t), g of independent Gumbels: the logarithm of a Concrete.

        log p(y) = log (D - 1)! + (D - 1) log t + sum_d log softmax(logits - t y)_d,

    torch's, with the support that it has. Shares themselves underflow at small t, and their density
    is then lost; that of the logarithms is not.

    References:
        Maddison, Mnih and Teh (2017), The Concrete distribution, arXiv:1611.00712, appendix C.3.

    Example:
        >>> import torch
        >>> LogConcrete(torch.tensor(0.5), logits=torch.zeros(3)).rsample().shape
        torch.Size([3])
    """

    support: Any = log_simplex

    @override
    def expand(self, batch_shape: Any, _instance: Any = None) -> "LogConcrete":
        return super().expand(batch_shape, self._get_checked_instance(LogConcrete, _instance))

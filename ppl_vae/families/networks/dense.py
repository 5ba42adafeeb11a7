"""Dense networks of vectors."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ppl_vae.families.modules import linear, require_constructor, shape_of
from ppl_vae.families.part import Part
from ppl_vae.runtime.checks import real_number, switch, whole_number, whole_numbers

__all__ = ["MLP", "Linear", "ResNet"]


MOST_LAYERS = 10_000  # of a network; more cannot be trained
MOST_DIMS = 100_000  # of a flow, whose networks have outputs for each
Activation = Callable[[], nn.Module]


class MLP(Part, nn.Module):
    """Multilayer perceptron: flattens its input's event dims and returns the last hidden layer.

    h_l = activation(W_l h_{l-1} + b_l); any number of batch dims to the left. With `skip` the input
    is among the features: what reads them is then a linear model plus a nonlinear one.
    Use `ConvEncoder` where neighbouring pixels matter and there are few rows.

    Args:
        in_shape: Shape of one input, an int or a tuple (flattened).
        hidden_dims: Width of each layer; the last one is the number of features.
        activation: Constructor of the nonlinearity.
        dropout: Share of units dropped while training.
        skip: Whether the flattened input stands before the last hidden layer in the output.

    Shape:
        (*batch, *in_shape) -> (*batch, hidden_dims[-1]), and the input's size more with `skip`

    References:
        Kingma and Welling (2014), Auto-encoding variational Bayes, arXiv:1312.6114, appendix C.

    Example:
        >>> MLP((28, 28), hidden_dims=(200, 200))(torch.zeros(5, 28, 28)).shape
        torch.Size([5, 200])
    """

    def __init__(
        self,
        in_shape: int | Sequence[int],
        hidden_dims: Sequence[int] = (256, 256),
        *,
        activation: Activation = nn.ReLU,
        dropout: float = 0.0,
        skip: bool = False,
    ) -> None:
        super().__init__()
        self.in_shape = shape_of(in_shape, "in_shape")
        self.skip = switch(skip, "skip")
        require_constructor(activation, "activation")
        real_number(dropout, "dropout", at_least=0, below=1)
        widths = [self.in_shape.numel(), *whole_numbers(hidden_dims, "hidden_dims")]
        layers: list[nn.Module] = []
        for width, next_width in zip(widths, widths[1:], strict=False):
            layers += [linear(width, next_width), activation()]
            layers += [nn.Dropout(dropout)] if dropout else []
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Features of x."""
        x = x.flatten(start_dim=-len(self.in_shape))
        h = self.layers(x)
        return torch.cat([x, h], dim=-1) if self.skip else h


class Linear(Part, nn.Module):
    """No hidden layer: the features are the flattened input, and the last map makes it linear.

    As decoder with `priors.StandardNormal` and `likelihoods.Gaussian` it is factor analysis
    (`scale="feature"`) or probabilistic PCA (`scale="global"`), whose exact posterior is
    `posteriors.FullRankNormal` with a linear encoder (of columns that a `Guide` does not read on a
    log scale, as it does positive ones); `diagnostics.factor_loadings` reads the loadings. With
    `Bernoulli` or `Ordinal` it is item response theory.

    Args:
        in_shape: Shape of one input, an int or a tuple (flattened).

    Shape:
        (*batch, *in_shape) -> (*batch, the input's size)

    References:
        Tipping and Bishop (1999), Probabilistic principal component analysis, JRSS B 61; Rubin and
        Thayer (1982), EM algorithms for ML factor analysis, Psychometrika 47.

    Example:
        >>> Linear((2, 3))(torch.zeros(5, 2, 3)).shape
        torch.Size([5, 6])
    """

    def __init__(self, in_shape: int | Sequence[int]) -> None:
        super().__init__()
        self.in_shape = shape_of(in_shape, "in_shape")

    def forward(self, x: Tensor) -> Tensor:
        """The input, flattened."""
        return x.flatten(start_dim=-len(self.in_shape))


class ResNet(Part, nn.Module):
    """Residual perceptron: h <- h + W_2 activation(W_1 norm(h)), `num_blocks` times.

    Trains at greater depth than `MLP`. Pre-activation, with layer normalisation, so that no batch
    statistics mix particles and rows.

    Args:
        in_shape: Shape of one input, an int or a tuple (flattened).
        width: Number of features.
        num_blocks: Number of residual blocks.
        activation: Constructor of the nonlinearity.

    Shape:
        (*batch, *in_shape) -> (*batch, width)

    References:
        He et al. (2016), Identity mappings in deep residual networks, arXiv:1603.05027.

    Example:
        >>> ResNet(8, width=32)(torch.zeros(7, 5, 8)).shape
        torch.Size([7, 5, 32])
    """

    def __init__(
        self,
        in_shape: int | Sequence[int],
        width: int = 256,
        *,
        num_blocks: int = 2,
        activation: Activation = nn.ReLU,
    ) -> None:
        super().__init__()
        self.in_shape = shape_of(in_shape, "in_shape")
        require_constructor(activation, "activation")
        width = whole_number(width, "width")
        self.first = linear(self.in_shape.numel(), width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), linear(width, width), activation(), linear(width, width)
            )
            for _ in range(whole_number(num_blocks, "num_blocks", 0, MOST_LAYERS))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features of x."""
        h = self.first(x.flatten(start_dim=-len(self.in_shape)))
        for block in self.blocks:
            h = h + block(h)
        return h

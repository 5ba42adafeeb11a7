"""Networks: features, and `Readout`, the last map to a distribution's parameters."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import torch
from pyro.distributions import transforms as T
from pyro.nn import ConditionalAutoRegressiveNN, ConditionalDenseNN
from torch import Tensor, nn

from ppl_vae.runtime.checks import whole_number

__all__ = ["MLP", "ConvDecoder", "ConvEncoder", "ResNet"]

Activation = Callable[[], nn.Module]


def shape_of(size: int | Sequence[int]) -> torch.Size:
    """Read `784` as `(784,)` and leave `(28, 28)` alone."""
    sizes: Any = [size] if isinstance(size, Integral) else size  # Integral: NumPy's too
    return torch.Size(map(int, sizes))


class MLP(nn.Module):
    """Multilayer perceptron: flattens its input's event dims and returns the last hidden layer.

    h_l = activation(W_l h_{l-1} + b_l); any number of batch dims to the left.
    Use `ConvEncoder` where neighbouring pixels matter and there are few rows.

    Args:
        in_shape: Shape of one input, an int or a tuple (flattened).
        hidden_dims: Width of each layer; the last one is the number of features.
        activation: Constructor of the nonlinearity.
        dropout: Share of units dropped while training.

    Shape:
        (*batch, *in_shape) -> (*batch, hidden_dims[-1])

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
    ) -> None:
        super().__init__()
        self.in_shape = shape_of(in_shape)
        widths = [self.in_shape.numel(), *shape_of(hidden_dims)]
        layers: list[nn.Module] = []
        for width, next_width in zip(widths, widths[1:], strict=False):
            layers += [nn.Linear(width, next_width), activation()]
            layers += [nn.Dropout(dropout)] if dropout else []
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Features of x."""
        return self.layers(x.flatten(start_dim=-len(self.in_shape)))


class ResNet(nn.Module):
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
        self.in_shape = shape_of(in_shape)
        width = whole_number(width, "width")
        self.first = nn.Linear(self.in_shape.numel(), width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, width), activation(), nn.Linear(width, width)
            )
            for _ in range(whole_number(num_blocks, "num_blocks", at_least=0))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features of x."""
        h = self.first(x.flatten(start_dim=-len(self.in_shape)))
        for block in self.blocks:
            h = h + block(h)
        return h


def _image_shape(shape: int | Sequence[int], name: str) -> torch.Size:
    image = tuple(shape_of(shape))
    if len(image) == 3 and image[-1] <= 4 < min(image[:-1]):
        raise ValueError(
            f"{name} takes images of shape (channels, height, width), and {image} has its channels "
            f"last: give x.movedim(-1, 1), of shape {(image[2], *image[:2])}"
        )
    if len(image) not in (2, 3):
        raise ValueError(
            f"{name} takes images of shape (height, width) or (channels, height, width), not "
            f"{image}"
        )
    return torch.Size([1, *image][-3:])


class ConvEncoder(nn.Module):
    """Strided convolutions: each entry of `channels` halves the image; features are flattened.

    Args:
        in_shape: (height, width) or (channels, height, width) of one input.
        channels: Output channels of each 3 x 3 convolution of stride 2.
        activation: Constructor of the nonlinearity.

    Shape:
        (*batch, *in_shape) -> (*batch, features)

    Raises:
        ValueError: `in_shape` is not that of an image.

    References:
        Dumoulin and Visin (2016), A guide to convolution arithmetic, arXiv:1603.07285.

    Example:
        >>> ConvEncoder((28, 28), channels=(8, 16))(torch.zeros(5, 28, 28)).shape
        torch.Size([5, 784])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        channels: Sequence[int] = (32, 64),
        *,
        activation: Activation = nn.ReLU,
    ) -> None:
        super().__init__()
        self.in_shape = shape_of(in_shape)
        self.image_shape = _image_shape(in_shape, "ConvEncoder")
        widths = [self.image_shape[0], *shape_of(channels)]
        layers: list[nn.Module] = []
        for width, next_width in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(width, next_width, 3, stride=2, padding=1), activation()]
        self.layers = nn.Sequential(*layers, nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        """Features of x."""
        batch = x.shape[: x.dim() - len(self.in_shape)]
        return self.layers(x.reshape(-1, *self.image_shape)).reshape(*batch, -1)


class ConvDecoder(nn.Module):
    """Mirror of `ConvEncoder`: a dense layer, then upsampling and convolutions to full size.

    The features keep the image's height and width, so the likelihood's last map acts pixel by
    pixel. Nearest-neighbour upsampling rather than transposed convolution, which leaves a
    checkerboard.

    Args:
        in_dim: Number of inputs, latent dimensions (and covariates).
        event_shape: (height, width) or (channels, height, width) of x.
        channels: Channels of each resolution, coarse to fine; the last is the number of features
            per pixel.
        activation: Constructor of the nonlinearity.

    Shape:
        (*batch, in_dim) -> (*batch, channels[-1], height, width)

    Raises:
        ValueError: `event_shape` is not that of an image.

    References:
        Odena et al. (2016), Deconvolution and checkerboard artifacts, Distill,
        doi:10.23915/distill.00003.

    Example:
        >>> ConvDecoder(8, (28, 28), channels=(16, 8))(torch.zeros(7, 5, 8)).shape
        torch.Size([7, 5, 8, 28, 28])
    """

    def __init__(
        self,
        in_dim: int,
        event_shape: Sequence[int],
        channels: Sequence[int] = (64, 32),
        *,
        activation: Activation = nn.ReLU,
    ) -> None:
        super().__init__()
        *_, height, width = _image_shape(event_shape, "ConvDecoder")
        channels = shape_of(channels)
        halvings = range(len(channels), -1, -1)
        sizes = [(math.ceil(height / 2**i), math.ceil(width / 2**i)) for i in halvings]
        first = (channels[0], *sizes[0])
        self.in_dim = whole_number(in_dim, "in_dim")
        layers: list[nn.Module] = [nn.Linear(self.in_dim, math.prod(first)), activation()]
        layers += [nn.Unflatten(1, first)]
        for here, after, size in zip([channels[0], *channels], channels, sizes[1:], strict=False):
            layers += [nn.Upsample(size=size), nn.Conv2d(here, after, 3, padding=1), activation()]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Feature maps of z."""
        maps = self.layers(z.reshape(-1, self.in_dim))
        return maps.reshape(*z.shape[:-1], *maps.shape[1:])


class Readout(nn.Module):
    """The last linear map, from one row's features to its parameters.

    Feature maps (channels, height, width) of the event's own height and width are read pixel by
    pixel (a 1 x 1 convolution), anything else is flattened and read by one dense layer.

    Shape:
        (*batch, *feature_shape) -> (*batch, num_parameters, *event_shape)
    """

    def __init__(
        self, feature_shape: Sequence[int], num_parameters: int, event_shape: Sequence[int]
    ) -> None:
        super().__init__()
        self.feature_shape = shape_of(feature_shape)
        self.event_shape = shape_of(event_shape)
        self.num_parameters = num_parameters
        self.pixelwise = (
            len(self.feature_shape) == 3 and self.feature_shape[1:] == self.event_shape[-2:]
        )
        pixels = self.feature_shape[1:].numel() if self.pixelwise else 1
        width = self.feature_shape.numel() // pixels
        self.linear = nn.Linear(width, num_parameters * self.event_shape.numel() // pixels)

    def set_bias(self, parameters: Tensor) -> None:
        """Make features of zero give these parameters; pixels take their mean, NaN changes none."""
        bias = self.linear.bias
        found = parameters.reshape(len(bias), -1).nanmean(1).to(bias)
        with torch.no_grad():
            bias.copy_(torch.where(found.isnan(), bias, found))

    def forward(self, features: Tensor) -> Tensor:
        """Parameters from features."""
        if self.pixelwise:
            flat = self.linear(features.movedim(-3, -1)).movedim(-1, -3)
        else:
            flat = self.linear(features.flatten(start_dim=-len(self.feature_shape)))
        batch = features.shape[: features.dim() - len(self.feature_shape)]
        # In the weights' type also under autocast: in bfloat16, log(1 - 3e-4) would be 0.
        parameters = flat.to(self.linear.weight.dtype)
        return parameters.reshape(*batch, self.num_parameters, *self.event_shape)


def near_identity(transform: nn.Module) -> nn.Module:
    """Start a flow layer close to the identity: a random one is jagged."""
    with torch.no_grad():
        for part in transform.modules():
            if isinstance(part, ConditionalDenseNN | ConditionalAutoRegressiveNN):
                part = part.layers[-1]
            elif not isinstance(part, T.Spline):
                continue
            for parameter in part.parameters(recurse=False):
                parameter.mul_(0.01)
    return transform


@contextmanager
def at_rest(*modules: nn.Module) -> Iterator[None]:
    """Evaluation mode within: no dropout, batch normalisation by running averages."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    for part, _ in modes:
        part.training = False
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def require_module(part: object, name: str) -> None:
    """Raise TypeError unless it is a module (and not its class)."""
    if not isinstance(part, nn.Module):
        hint = "give one of ppl_vae's, or an nn.Module"
        if isinstance(part, type):
            hint = f"pass an instance, {part.__name__}(...), not the class"
        raise TypeError(f"the {name} is {part!r}, which is not a module: {hint}")


def join(
    values: Tensor, event_dim: int, indicator: Tensor | None = None, context: Tensor | None = None
) -> Tensor:
    """Values with the missingness indicator and the covariates beside them, for a network.

    They are appended to a vector (event_dim 1), and are further channels of an image or volume, a
    covariate as a constant plane. `values` may have more batch dims (particles) than `context`.
    """
    if indicator is None and context is None:
        return values
    parts = [each.to(values.dtype) for each in (values, indicator) if each is not None]
    if event_dim == 2:
        parts = [part.unsqueeze(-3) for part in parts]
    axis = -1 if event_dim == 1 else -max(3, event_dim)
    places = parts[0].shape[axis:][1:]  # of one channel
    batch = parts[0].shape[:axis]
    if context is not None:
        parts.append(context.reshape(*context.shape, *(1 for _ in places)))
    return torch.cat([part.expand(*batch, part.shape[axis], *places) for part in parts], dim=axis)

"""Convolutions of images."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ppl_vae.families.modules import linear, require_constructor, shape_of
from ppl_vae.families.networks.dense import Activation
from ppl_vae.families.part import Part
from ppl_vae.runtime.checks import whole_number, whole_numbers

__all__ = ["ConvDecoder", "ConvEncoder"]


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


class ConvEncoder(Part, nn.Module):
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
        self.in_shape = shape_of(in_shape, "in_shape")
        require_constructor(activation, "activation")
        self.image_shape = _image_shape(in_shape, "ConvEncoder")
        widths = [self.image_shape[0], *whole_numbers(channels, "channels")]
        layers: list[nn.Module] = []
        for width, next_width in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(width, next_width, 3, stride=2, padding=1), activation()]
        self.layers = nn.Sequential(*layers, nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        """Features of x."""
        batch = x.shape[: x.dim() - len(self.in_shape)]
        return self.layers(x.reshape(-1, *self.image_shape)).reshape(*batch, -1)


class ConvDecoder(Part, nn.Module):
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
        require_constructor(activation, "activation")
        channels = shape_of(channels, "channels")
        halvings = range(len(channels), -1, -1)
        sizes = [(math.ceil(height / 2**i), math.ceil(width / 2**i)) for i in halvings]
        first = (channels[0], *sizes[0])
        self.in_dim = whole_number(in_dim, "in_dim")
        layers: list[nn.Module] = [linear(self.in_dim, math.prod(first)), activation()]
        layers += [nn.Unflatten(1, first)]
        for here, after, size in zip([channels[0], *channels], channels, sizes[1:], strict=False):
            layers += [nn.Upsample(size=size), nn.Conv2d(here, after, 3, padding=1), activation()]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Feature maps of z."""
        maps = self.layers(z.reshape(-1, self.in_dim))
        return maps.reshape(*z.shape[:-1], *maps.shape[1:])

"""The last map, from features to the parameters of a distribution."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ppl_vae.families.modules import linear, shape_of

__all__ = ["Readout"]


class Readout(nn.Module):
    """The last linear map, from one row's features to its parameters.

    Feature maps (channels, height, width) of the event's own height and width are read pixel by
    pixel (a 1 x 1 convolution), and so are features (channels, steps) of an event of as many steps;
    anything else is flattened and read by one dense layer.

    Shape:
        (*batch, *feature_shape) -> (*batch, num_parameters, *event_shape)

    References:
        McCullagh and Nelder (1989), Generalized linear models, section 2.2 (linear predictors).

    Example:
        >>> Readout((5,), 2, (3,))(torch.zeros(7, 5)).shape
        torch.Size([7, 2, 3])
    """

    def __init__(
        self, feature_shape: Sequence[int], num_parameters: int, event_shape: Sequence[int]
    ) -> None:
        super().__init__()
        self.feature_shape = shape_of(feature_shape, "feature_shape")
        self.event_shape = shape_of(event_shape)
        self.num_parameters = num_parameters
        places = self.feature_shape[1:]
        self.pixelwise = len(places) > 0 and places == self.event_shape[-2:]
        pixels = self.feature_shape[1:].numel() if self.pixelwise else 1
        width = self.feature_shape.numel() // pixels
        self.linear = linear(width, num_parameters * self.event_shape.numel() // pixels)

    def set_bias(self, parameters: Tensor) -> None:
        """Make features of zero give these parameters; pixels take their mean, NaN changes none."""
        bias = self.linear.bias
        found = parameters.reshape(len(bias), -1).nanmean(1).to(bias)
        with torch.no_grad():
            bias.copy_(torch.where(found.isnan(), bias, found))

    def forward(self, features: Tensor) -> Tensor:
        """Parameters from features."""
        if self.pixelwise:
            channels = -len(self.feature_shape)
            flat = self.linear(features.movedim(channels, -1)).movedim(-1, channels)
        else:
            flat = self.linear(features.flatten(start_dim=-len(self.feature_shape)))
        batch = features.shape[: features.dim() - len(self.feature_shape)]
        # In the weights' type also under autocast: in bfloat16, log(1 - 3e-4) would be 0.
        parameters = flat.to(self.linear.weight.dtype)
        return parameters.reshape(*batch, self.num_parameters, *self.event_shape)

"""Large matrix products of recorded graphs by oneDNN where it is faster than MKL.

On a CPU torch multiplies float32 matrices by MKL, which uses half of the vector width of some
processors: on an AMD EPYC with AVX-512 oneDNN takes half of the time (docs/benchmarks.md).
"""

import logging
import timeit
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ppl_vae.runtime.recording.private import product_by_onednn

FEWEST_MULTIPLICATIONS = 5_000_000  # below this a call of oneDNN costs more than it saves
CLEARLY_FASTER = 0.8

logger = logging.getLogger(__name__)

aten = torch.ops.aten


def replacements() -> dict[Any, Callable[..., Any]]:
    """Replacements of torch's products on this machine, for `make_fx`.

    Products of float32 matrices on a CPU with at least 5 million multiplications become the
    operation `torch.ops.ppl_vae.matmul`, if oneDNN is clearly faster here; others stay. It has no
    derivative, since a recorded graph holds its own gradient.

    Example:
        >>> set(map(str, replacements())) <= {"aten.mm.default", "aten.addmm.default"}
        True
    """
    return {aten.mm.default: _mm, aten.addmm.default: _addmm} if onednn_is_faster() else {}


@cache
def onednn_is_faster() -> bool:
    """Whether oneDNN is clearly faster than torch at float32 products; measured once."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        times = [[_seconds(product) for product in (matmul, torch.mm)] for _ in range(8)]
    except (AttributeError, RuntimeError) as error:
        # torch was built without the operation, or for another processor
        logger.info("products of matrices stay with torch: %s", str(error).partition("\n")[0])
        return False
    ours, theirs = map(min, zip(*times, strict=True))
    return ours < CLEARLY_FASTER * theirs


def _seconds(product: Callable[[Tensor, Tensor], Tensor]) -> float:
    square = torch.ones(512, 512, dtype=torch.float32, device="cpu")  # whatever the defaults are
    return timeit.timeit(lambda: product(square, square), number=1)


@torch.library.custom_op("ppl_vae::matmul", mutates_args=())
def matmul(one: Tensor, other: Tensor) -> Tensor:
    """The product of two matrices by oneDNN; a custom operation, which the compiler leaves."""
    return product_by_onednn(packed(one), packed(other))


def packed(matrix: Tensor) -> Tensor:
    """The matrix without gaps between its rows or columns, for which oneDNN has no fast product."""
    whole = matrix.is_contiguous() or matrix.t().is_contiguous()
    return matrix if whole else matrix.contiguous()


@matmul.register_fake
def _(one: Tensor, other: Tensor) -> Tensor:
    return one.new_empty(one.shape[0], other.shape[1])


def _mm(one: Tensor, other: Tensor) -> Any:
    return matmul(one, other) if pays(one, other) else NotImplemented


def _addmm(bias: Tensor, one: Tensor, other: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    return bias + matmul(one, other) if beta == alpha == 1 and pays(one, other) else NotImplemented


def pays(one: Tensor, other: Tensor) -> bool:
    """Whether the product is one that oneDNN takes, and worth calling it for."""
    is_float = one.device.type == "cpu" and one.dtype == other.dtype == torch.float32
    return is_float and one.numel() * other.shape[1] >= FEWEST_MULTIPLICATIONS

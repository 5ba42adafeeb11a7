"""A graph's CUDA kernels launched as one: small networks wait for their launches."""

from typing import Any

import torch
from torch import Tensor

from ppl_vae.runtime.recording.graphs import Graph, first_line
from ppl_vae.runtime.recording.outside import RecordingError
from ppl_vae.runtime.seeding import seeded

__all__ = ["replayed"]

CALLS_TO_WARM_UP = 3  # in which libraries set themselves up; these must not be captured


def replayed(run: Graph, *inputs: Tensor) -> Graph:
    """`run` with its CUDA kernels launched as one; the next call overwrites the result.

    Inputs are copied to the place of the first ones; `run` reads everything else in place. Raises
    RecordingError for tensors on other devices, or where `run` waits for the CPU.
    PyTorch's notes on CUDA semantics, "CUDA Graphs": warm up on a stream of its own, then capture.

    Example:
        >>> replayed(torch.neg, torch.ones(2))
        Traceback (most recent call last):
        ppl_vae.runtime.recording.outside.RecordingError: the data are on cpu
    """
    if not on_cuda(*inputs):
        raise RecordingError(f"the data are on {inputs[0].device}")
    places = [value.clone() for value in inputs]
    try:
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with seeded(0), torch.no_grad():
            with torch.cuda.stream(stream):
                for _ in range(CALLS_TO_WARM_UP):
                    run(*places)
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(graph):
                found = run(*places)
    except RuntimeError as error:
        raise RecordingError(first_line(error)) from error

    def replay(*inputs: Tensor) -> Any:
        for place, value in zip(places, inputs, strict=True):
            place.copy_(value)
        graph.replay()
        return found

    return replay


def on_cuda(*inputs: Tensor) -> bool:
    """Whether all of them are."""
    return all(value.is_cuda for value in inputs)

"""Programs as graphs of tensor operations: Pyro's effect handlers run once, the graph they leave runs ever after."""

from ppl_vae.recording.cuda import replayed
from ppl_vae.recording.graphs import Graph, RecordingError, check_agreement, compiled, recorded

__all__ = ["Graph", "RecordingError", "check_agreement", "compiled", "recorded", "replayed"]

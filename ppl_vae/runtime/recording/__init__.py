"""Programs as graphs of tensor operations: Pyro's effect handlers run once, the graph they leave
runs ever after.
"""

from ppl_vae.runtime.recording.cuda import replayed
from ppl_vae.runtime.recording.graphs import Graph, check_agreement, compiled, first_line, recorded
from ppl_vae.runtime.recording.outside import RecordingError, unchanged

__all__ = [
    "Graph",
    "RecordingError",
    "check_agreement",
    "compiled",
    "first_line",
    "recorded",
    "replayed",
    "unchanged",
]

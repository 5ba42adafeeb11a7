"""Programs as graphs of tensor operations, without Pyro's effect handlers."""

from ppl_vae.runtime.recording.cuda import replayed
from ppl_vae.runtime.recording.exchange import exchanged
from ppl_vae.runtime.recording.function import RecordedFunction, require_agreement
from ppl_vae.runtime.recording.graphs import Graph, check_agreement, compiled, first_line, recorded
from ppl_vae.runtime.recording.outside import RecordingError, unchanged

__all__ = [
    "Graph",
    "RecordedFunction",
    "RecordingError",
    "check_agreement",
    "compiled",
    "exchanged",
    "first_line",
    "recorded",
    "replayed",
    "require_agreement",
    "unchanged",
]

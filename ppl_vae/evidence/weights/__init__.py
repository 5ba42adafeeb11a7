"""Evidence from log-weights, whole or block by block."""

from ppl_vae.evidence.weights.reduction import Reduction, reduce_log_weights

__all__ = ["Reduction", "reduce_log_weights"]

"""log p(x), per datum, with what says whether to believe it."""

from ppl_vae.evidence.estimate import log_evidence
from ppl_vae.evidence.evidence import Evidence, EvidenceSummary, reduce_log_weights
from ppl_vae.evidence.importance_sampling import ImportanceSampling
from ppl_vae.evidence.pareto import pareto_k
from ppl_vae.evidence.proposals import Defensive

__all__ = [
    "Defensive",
    "Evidence",
    "EvidenceSummary",
    "ImportanceSampling",
    "log_evidence",
    "pareto_k",
    "reduce_log_weights",
]

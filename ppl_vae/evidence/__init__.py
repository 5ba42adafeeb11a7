"""log p(x), per datum, with what says whether to believe it."""

from ppl_vae.evidence.evidence import Evidence, EvidenceSummary, reduce_log_weights
from ppl_vae.evidence.importance_sampling import ImportanceSampling, log_evidence
from ppl_vae.evidence.pareto import pareto_k

__all__ = ["Evidence", "EvidenceSummary", "ImportanceSampling", "log_evidence", "pareto_k", "reduce_log_weights"]

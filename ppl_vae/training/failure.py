"""What is said, and put back, when numbers have stopped being finite."""

from collections.abc import Callable

from torch import Tensor

from ppl_vae.programs.modules import evaluating
from ppl_vae.programs.traces import Program, log_terms, nonfinite_site
from ppl_vae.runtime.seeding import seeded
from ppl_vae.training.state import State, Weights

REMEDY = "lower learning_rate, set clip_norm, or look for extreme values in x"


class Fallback:
    """Weights to go back to: those after the last complete epoch, and those at the start of this
    run.
    """

    def __init__(self, state: State, epoch: int) -> None:
        self.state = state
        self.start = epoch, state.take()
        self.last = self.start

    def keep(self, epoch: int, weights: Weights) -> None:
        """Remember the weights after an epoch that counts."""
        self.last = epoch, weights

    def put_back(self, is_finite: Callable[[], bool]) -> str:
        """Put back the last weights under which the bound is finite; says which, in words."""
        epoch, weights = self.last
        self.state.put(weights)
        if not is_finite():
            epoch, weights = self.start
            self.state.put(weights)
        return (
            f"the weights after epoch {epoch} were put back"
            if epoch
            else "the starting weights were put back"
        )


def culprit(model: Program, guide: Program, args: tuple[Tensor, ...]) -> str:
    """The first site with a value or density that is not finite, in words."""
    try:
        with evaluating(model, guide), seeded(0):
            site = nonfinite_site(log_terms(model, guide, *args))
    except Exception:  # programs fail in many ways on such numbers, and this only says where
        site = None
    return f"site {site!r}" if site else "no single site (their sum overflowed)"

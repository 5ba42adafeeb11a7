"""The information in the latents."""

import math

import numpy as np

from ppl_vae.diagnostics import (
    ELBOSurgery,
    active_units,
    elbo_surgery,
    plot_collapse,
    rate_distortion,
)
from ppl_vae.diagnostics.latents.surgery import ROWS
from ppl_vae.diagnostics.report_plots import plot_rate_distortion
from ppl_vae.programs.modules import place
from ppl_vae.report.attempts import NotApplicable, Undecided
from ppl_vae.report.diagnosis import Diagnosis, Findings
from ppl_vae.report.elements import Panel, Table, draw, number, sentence
from ppl_vae.report.rules import Measured, Rule

PRIOR_PASSES = 1.0  # nats


def rate(found: Findings) -> Measured:
    """KL of q(z given x) from the prior."""
    nats = found.subject.metrics.kl
    if nats is None:
        raise NotApplicable("the rate is not finite")
    return Measured(nats, f"{nats:.3f} nats per row")


def unused(found: Findings) -> Measured:
    """Share of inactive latent dimensions."""
    metrics = found.subject.metrics
    if metrics.active_units is None:
        raise NotApplicable("at least two rows are needed")
    share = 1 - metrics.active_units / metrics.latent_dim
    return Measured(share, f"{metrics.active_units} of {metrics.latent_dim} are active")


def marginal_kl(found: Findings) -> Measured:
    """KL of q(z) from the prior: of two estimates on one side of the limit, the nearer to it."""
    summary = found["surgery"].summary()
    high = max(0.0, summary.mean["marginal_kl"])
    low = min(max(0.0, summary.mean["rate"] - summary.mean["leave_one_out"]), high)
    said = f"between {low:.2f} and {high:.2f} nats"
    if f"{low:.2f}" == f"{high:.2f}":
        said = f"{low:.2f} nats"
    if low <= PRIOR_PASSES < high:
        raise Undecided(f"{said}: {summary.num_data} rows are too few to tell")
    return Measured(high if high <= PRIOR_PASSES else low, f"{said} per row")


def _surgery(found: Findings) -> ELBOSurgery:
    context = place(found.subject.rows, *found.programs).context
    prior = getattr(found.programs[0], "prior", None)
    if prior is not None and prior(None if context is None else context[:2]).batch_shape:
        raise NotApplicable(
            "the prior depends on the covariates, so there is no single prior to compare q(z) with"
        )
    return elbo_surgery(*found.programs, found.subject.rows, **found.options)


def _collapse(found: Findings) -> Panel:
    """The information in each latent dimension."""
    units = found["active_units"]
    surgery = found["surgery"]
    size = len(units.names)
    summary = surgery.summary()
    mean = summary.mean
    alts = (
        f"Bars of the information in each of {size} latent dimensions, sorted.",
        f"Active units falling with the threshold; {units.count} of {size} at {units.threshold:g}.",
        f"Bars of the parts of the rate of {mean['rate']:.2f} nats, of which I(x; z) is "
        f"{mean['mutual_information']:.2f}.",
    )
    pictures = draw(lambda axes: plot_collapse(units, surgery, axes), alts)
    errors = (mean, summary.mc_se, summary.data_se)
    cells = [(ROWS[name].strip(), *(number(each[name]) for each in errors)) for name in mean]
    most = f"I(x; z) cannot exceed {np.log(summary.num_data):.2f} nats"
    limit = f"q(z) is the mixture over {summary.num_data} rows: {most}."
    if any(np.isnan(value) for value in mean.values()):
        limit += (
            " Unknown parts need a guide, or a prior, that is a product over latent dimensions."
        )
    table = Table(("nats per row", "mean", "Monte Carlo se", "data se"), cells)
    return Panel([f"{units}.", limit + _alike(found)], pictures=pictures, tables=[table])


def _rate_distortion(found: Findings) -> Panel:
    """Where the model stands between no information about x in z and all of it."""
    parts = found["rate_distortion"]
    means = f"{parts.rate.mean():.2f} and {parts.distortion.mean():.2f}"
    alt = f"A point per row at its rate and distortion; means {means} nats."
    pictures = draw(lambda ax: plot_rate_distortion(parts, ax), alt, size=(5.2, 3.8))
    what = "Rate: nats for z. Distortion: nats for x given z. Their sum is minus the ELBO."
    return Panel([what + _alike(found), sentence(parts)], pictures=pictures)


def _alike(found: Findings) -> str:
    """What holds here where rows have weights, unlike in log p(x)."""
    return " Rows count alike, whatever their weights." * (
        found.subject.evidence.weights is not None
    )


SECTION = "Information in the latents"
ACTIVE_UNITS = Diagnosis(
    "active_units",
    compute=lambda found: active_units(*found.programs, found.subject.rows, **found.options),
)
COLLAPSE = Diagnosis(
    "surgery",
    "Collapse",
    SECTION,
    compute=_surgery,
    panel=_collapse,
    page="howto/collapse.md",
    about="Latents",
    rules=[
        Rule(
            "Latents carry information",
            rate,
            "Rate, the KL of q(z given x) from the prior, in nats per row",
            passes=0.1,
            fails=0.1,
            words=(
                "The latents are used.",
                "",
                "The latents carry no information about x.",
            ),
            remedy="Anneal the KL, or set free bits.",
            better="more",
        ),
        Rule(
            "Every latent is used",
            unused,
            "Share of latent dimensions whose posterior mean does not vary with x",
            passes=0.0,
            fails=math.inf,
            words=(
                "No latent dimension is dead.",
                "Some dimensions are dead, which does no harm.",
                "",
            ),
            remedy="Fewer latents would do.",
            page="howto/collapse.md#active-units",
            form="{:.0%}",
        ),
        Rule(
            "q(z) is the prior",
            marginal_kl,
            "KL of q(z), averaged over the rows, from the prior, in nats",
            passes=PRIOR_PASSES,
            fails=3.0,
            words=(
                "Averaged over the rows, the latents follow the prior.",
                "Averaged over the rows, the latents do not quite follow the prior.",
                "Averaged over the rows, the latents do not follow the prior.",
            ),
            remedy="Try a richer prior, such as VampPrior.",
            page="howto/collapse.md#elbo-surgery",
        ),
    ],
)
RATE_DISTORTION = Diagnosis(
    "rate_distortion",
    "Rate and distortion",
    SECTION,
    compute=lambda found: rate_distortion(*found.programs, found.subject.rows, **found.options),
    panel=_rate_distortion,
    page="howto/collapse.md",
)

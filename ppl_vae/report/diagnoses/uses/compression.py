"""Compression: the bits of the rows by the model, beside general compressors."""

import xarray as xr

from ppl_vae.report.attempts import reasons
from ppl_vae.report.diagnosis import Diagnosis, Findings
from ppl_vae.report.elements import Panel, draw
from ppl_vae.tasks.compression import bits_per_row, plot_bits


def _bits(found: Findings) -> dict[str, float]:
    with reasons(ImportError, ValueError):
        return bits_per_row(*found.pair, found.subject.rows, **found.options)


def _panel(found: Findings) -> Panel:
    """A bar for each way to write the rows."""
    bits = found["compression"]
    says = [
        f"`compress` writes the {len(found.subject.rows)} diagnosed rows without loss, in about "
        "-ELBO / log 2 bits each.",
        "The whole file also holds a header and the bits that the first row drew its z from, "
        "which weigh less with more rows.",
    ]
    alt = "Bits per row: " + ", ".join(f"{name} {value:.1f}" for name, value in bits.items()) + "."
    return Panel(says, pictures=draw(lambda ax: plot_bits(bits, ax), alt, size=(7.4, 3.1)))


def _tree(found: Findings) -> dict[str, xr.Dataset]:
    bits = found["compression"]
    values = {"bits_per_row": ("coder", list(bits.values()))}
    return {"compression": xr.Dataset(values, {"coder": list(bits)})}


COMPRESSION = Diagnosis(
    "compression",
    "Compression",
    "What it can be used for",
    compute=_bits,
    panel=_panel,
    page="howto/compression.md",
    tree=_tree,
)

"""Lossless compression of discrete rows, by bits-back coding."""

from ppl_vae.tasks.compression.bits_back import compress, decompress
from ppl_vae.tasks.compression.compressed import CompressedRows
from ppl_vae.tasks.compression.sizes import bits_per_row, plot_bits

__all__ = ["CompressedRows", "bits_per_row", "compress", "decompress", "plot_bits"]

"""Lossless compression of discrete rows, by bits-back coding."""

from ppl_vae.tasks.compression.bits_back import compress, decompress
from ppl_vae.tasks.compression.compressed import CompressedRows

__all__ = ["CompressedRows", "compress", "decompress"]

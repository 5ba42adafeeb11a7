"""Missingness models p(m given x, z): which entries of a row are missing, beside a likelihood."""

from ppl_vae.families.missingness import self_masking
from ppl_vae.families.missingness.mechanism import Missingness as Missingness
from ppl_vae.families.missingness.self_masking import *  # noqa: F403

__all__: list[str] = []
__all__ += self_masking.__all__

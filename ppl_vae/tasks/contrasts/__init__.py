"""Contrasts: two groups of rows compared in latents and in predicted features."""

from ppl_vae.tasks.contrasts.design import Design
from ppl_vae.tasks.contrasts.differences import GroupDifferences
from ppl_vae.tasks.contrasts.group_contrast import Contrast, ContrastSettings, contrast
from ppl_vae.tasks.contrasts.permutations import PermutationTest, permutation_test
from ppl_vae.tasks.contrasts.plot import plot_contrast

__all__ = [
    "Contrast",
    "ContrastSettings",
    "Design",
    "GroupDifferences",
    "PermutationTest",
    "contrast",
    "permutation_test",
    "plot_contrast",
]

"""The observations: data sets, readers, named data sets."""

from ppl_vae.data.catalogue import available, load
from ppl_vae.data.dataset import Dataset, as_dataset
from ppl_vae.data.readers import read

__all__ = ["Dataset", "as_dataset", "available", "load", "read"]

"""What was observed: data sets, readers, named sets, and exact test beds with known log p(x)."""

from ppl_vae.data import beds
from ppl_vae.data.dataset import Dataset, as_dataset
from ppl_vae.data.named import available, load
from ppl_vae.data.readers import read

__all__ = ["Dataset", "as_dataset", "available", "beds", "load", "read"]

"""Every test starts from the same random stream and draws into memory."""

import matplotlib
import pyro
import pytest
import torch

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def clean_start():
    torch.manual_seed(0)
    pyro.clear_param_store()

"""Every test starts from the same random stream and draws into memory; what can be compiled here is
tried once."""

import matplotlib
import pyro
import pytest
import torch

from ppl_vae.runtime.recording import RecordingError, compiled, recorded

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def clean_start():
    torch.manual_seed(0)
    pyro.clear_param_store()


@pytest.fixture(scope="session")
def compiler():
    """Skips the test where nothing can be compiled."""
    try:
        compiled(recorded(lambda x: x + torch.randn_like(x), torch.zeros(3)), torch.zeros(3))
    except RecordingError as error:
        pytest.skip(f"nothing can be compiled on this machine: {error}")

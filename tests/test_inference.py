"""What evaluations share: rows placed and checked once, blocks with seeds, evaluation mode."""

import numpy as np
import pytest
import torch
from torch import nn

import ppl_vae as pv
from ppl_vae import beds, likelihoods, posteriors, priors
from ppl_vae.importance import log_weights
from ppl_vae.programs.inference import Inference
from ppl_vae.runtime.progress import progress_bar
from ppl_vae.runtime.seeding import derived_seed


def vae(latent_dim=2):
    dropout = nn.Sequential(nn.LazyLinear(8), nn.Dropout(0.5))
    model = pv.Model(priors.StandardNormal(2), likelihoods.Poisson((3,)), decoder=dropout)
    return model, pv.Guide(posteriors.MeanFieldNormal(latent_dim), (3,))


def counts(num_data=7):
    return np.random.default_rng(0).poisson(3.0, size=(num_data, 3))


def test_rows_take_the_float_type_of_the_programs():
    model, guide = vae()
    inference = Inference(model.double(), guide.double(), counts())
    assert inference.data.x.dtype == torch.float64
    assert len(inference) == 7


def test_rows_and_programs_are_checked():
    x = counts()
    x[5, 2] = -1
    with pytest.raises(ValueError, match="at row 5, feature 2"):
        Inference(*vae(), x)
    with pytest.raises(ValueError, match="2 latent dimensions and the guide 4"):
        Inference(*vae(latent_dim=4), counts())


def test_custom_programs_are_checked_on_request():
    bed = beds.linear_gaussian(num_data=3)
    assert Inference(bed.model, bed.guide, bed.x).check_programs() == []


def test_blocks_are_all_rows_in_their_order():
    x, context = torch.randn(7, 3), torch.arange(7.0)[:, None]
    inference = Inference(lambda x, c: None, lambda x, c: None, pv.Dataset(x, context=context))
    blocks = list(inference.blocks(3))
    assert [block.rows for block in blocks] == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert torch.equal(torch.cat([block.args[1] for block in blocks]), context)
    assert torch.equal(torch.cat([block.data.x for block in blocks]), inference.args[0])


def test_the_seed_of_a_block_is_that_of_its_first_row():
    inference = Inference(*vae(), counts())
    assert [block.seed for block in inference.blocks(4)] == [None, None]
    assert [block.seed for block in inference.blocks(4, seed=1)] == [
        derived_seed(1, 0),
        derived_seed(1, 4),
    ]
    (block,) = inference.blocks(7, seed=1, keys=(2, 3))
    assert block.seed == derived_seed(1, 2, 3, 0)


def test_terms_are_those_of_log_weights():
    bed = beds.linear_gaussian(num_data=7, guide_scale=0.5)
    inference = Inference(bed.model, bed.guide, bed.x)
    parts = [block.terms(10).log_weights for block in inference.blocks(3, seed=0)]
    expected = log_weights(bed.model, bed.guide, bed.x, num_particles=10, seed=0, chunk_size=30)
    assert torch.equal(torch.cat(parts, dim=1), expected)


def test_modes_and_random_streams_are_the_callers_between_blocks():
    model, guide = vae()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    inference = Inference(model, guide, counts())
    for block in inference.blocks(3, seed=0):
        with block.evaluating():
            assert not model.training
            assert not torch.is_grad_enabled()
            torch.rand(1)
        assert model.training
        assert guide.training
        assert torch.is_grad_enabled()
        assert torch.equal(torch.get_rng_state(), before)


def test_blocks_of_two_passes_may_be_interleaved():
    inference = Inference(*vae(), counts())
    alone = [block.terms(5).log_weights for block in inference.blocks(3, seed=0)]
    pairs = zip(inference.blocks(3, seed=0), inference.blocks(3, seed=1), strict=True)
    together = [(one.terms(5).log_weights, other.terms(5)) for one, other in pairs]
    assert all(torch.equal(a, b) for a, (b, _) in zip(alone, together, strict=True))


def test_a_model_or_a_guide_alone():
    bed = beds.linear_gaussian(num_data=3)
    (block,) = Inference(bed.guide, bed.guide, bed.x).blocks(3, seed=0)
    with block.evaluating():
        assert bed.guide(*block.args).shape == (3, 2)


@pytest.mark.parametrize("progress", [True, False])
def test_bars_are_silent_at_first(capsys, progress):
    with progress_bar(3, "rows", progress=progress) as bar:
        bar.update(3)
    assert capsys.readouterr() == ("", "")


def test_a_derived_seed_of_none_is_none():
    assert derived_seed(None, 1, 2) is None

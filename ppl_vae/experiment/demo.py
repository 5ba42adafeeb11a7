"""The run of `ppl-vae demo`."""

from ppl_vae.experiment.config import Config

__all__ = ["demo_config"]

TRAINING = {"num_epochs": 500, "kl_warmup_epochs": 20, "patience": 50}
NETWORK = {"name": "MLP", "hidden_dims": [256, 256]}


def demo_config(seed: int = 0) -> Config:
    """VampPrior, Bernoulli, mean-field guide, analytic KL, on the embedded digits.

    Args:
        seed: Seed of training.

    References:
        Tomczak and Welling (2018), VAE with a VampPrior, arXiv:1705.07120.

    Example:
        >>> demo_config().prior.keywords
        {'pseudo_inputs': 50}
    """
    return Config.model_validate(
        {
            "data": {"name": "digits", "binarize": "dynamic"},
            "prior": {"name": "VampPrior", "pseudo_inputs": 50},
            "likelihood": {"name": "Bernoulli"},
            "posterior": {"name": "MeanFieldNormal", "latent_dim": 8},
            "encoder": NETWORK,
            "decoder": NETWORK,
            "objective": {"name": "MeanFieldELBO"},
            "training": {**TRAINING, "seed": seed},
            "evaluation": {"num_particles": 1000},
        }
    )

"""An epoch of the same VAE in Pythae's trainer. Its data are binarised once: it has no dynamic
binarisation."""

import sys

import numpy as np
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from serve import serve
from torch import as_tensor, nn, zeros

HIDDEN, LATENT, BATCH = 400, 20, 128

x = as_tensor(np.load(sys.argv[1]))


class Encoder(BaseEncoder):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(x.shape[1], HIDDEN), nn.ReLU())
        self.loc, self.log_var = nn.Linear(HIDDEN, LATENT), nn.Linear(HIDDEN, LATENT)

    def forward(self, x):
        h = self.features(x)
        return ModelOutput(embedding=self.loc(h), log_covariance=self.log_var(h))


class Decoder(BaseDecoder):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, x.shape[1]), nn.Sigmoid()
        )

    def forward(self, z):
        return ModelOutput(reconstruction=self.layers(z))


config = VAEConfig(input_dim=(x.shape[1],), latent_dim=LATENT, reconstruction_loss="bce")
settings = BaseTrainerConfig(
    per_device_train_batch_size=BATCH,
    learning_rate=1e-3,
    optimizer_params={"fused": True},
    output_dir=".",
)
trainer = BaseTrainer(
    VAE(config, Encoder(), Decoder()), BaseDataset(x, zeros(len(x))), training_config=settings
)
trainer.prepare_training()


def epoch(times):
    for i in range(times):
        trainer.train_step(i)


serve({"epoch": epoch}, "pythae")

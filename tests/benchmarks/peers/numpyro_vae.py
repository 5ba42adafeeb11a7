"""The same training step in NumPyro: model and guide as in its own VAE example, analytic KL, data
in memory."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import lax, random
from jax.example_libraries import stax
from numpyro.infer import SVI, TraceMeanField_ELBO
from serve import serve

HIDDEN, LATENT, BATCH = 400, 20, 128

x = jnp.asarray(np.load(sys.argv[1]))
heads = stax.parallel(stax.Dense(LATENT), stax.serial(stax.Dense(LATENT), stax.Exp))
encoder = stax.serial(stax.Dense(HIDDEN), stax.Relu, stax.FanOut(2), heads)
decoder = stax.serial(stax.Dense(HIDDEN), stax.Relu, stax.Dense(x.shape[1]))


def model(batch):
    decode = numpyro.module("decoder", decoder, (len(batch), LATENT))
    with numpyro.plate("data", len(batch)):
        z = numpyro.sample("z", dist.Normal(jnp.zeros(LATENT), 1.0).to_event(1))
        numpyro.sample("x", dist.Bernoulli(logits=decode(z)).to_event(1), obs=batch)


def guide(batch):
    encode = numpyro.module("encoder", encoder, batch.shape)
    loc, scale = encode(batch)
    with numpyro.plate("data", len(batch)):
        numpyro.sample("z", dist.Normal(loc, scale).to_event(1))


svi = SVI(model, guide, numpyro.optim.Adam(1e-3), TraceMeanField_ELBO())
state = svi.init(random.PRNGKey(0), x[:BATCH])
rows = np.random.default_rng(0).integers(len(x), size=(100, BATCH))


@jax.jit
def one(state, x, rows):
    return svi.update(state, x[rows])


@jax.jit
def many(state, x, rows):
    return lax.fori_loop(0, len(rows), lambda i, state: svi.update(state, x[rows[i]])[0], state)


def step(times):
    global state
    for i in range(times):
        state, loss = one(state, x, rows[i])
        float(loss)


def loop(times):
    global state
    state = jax.block_until_ready(many(state, x, rows[:times]))


serve({"step": step, "loop": loop}, "numpyro", "jax")

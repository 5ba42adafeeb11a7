"""Information in the latents: posterior means, rate, active units, the parts of the ELBO."""

"""What the latents carry: posterior means, rate, active units, the parts of the ELBO."""

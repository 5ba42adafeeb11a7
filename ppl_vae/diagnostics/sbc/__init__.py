"""Whether the encoder is right: simulation-based calibration, and errors against HMC."""

"""Whether the encoder is right: simulation-based calibration, and errors relative to HMC."""

"""Whether the model is right: test statistics, PIT values, reliability of bits."""

"""Whether the model is right: test statistics, PIT values, reliability diagrams of bits."""

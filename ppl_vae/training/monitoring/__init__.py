"""What is watched during training: held-out bounds, the rate, and posterior collapse."""

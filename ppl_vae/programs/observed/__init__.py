"""What a program observes: which entries of its arguments, and at which sites."""

"""What the model takes to run and to train."""

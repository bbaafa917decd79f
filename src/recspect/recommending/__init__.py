"""recommending."""

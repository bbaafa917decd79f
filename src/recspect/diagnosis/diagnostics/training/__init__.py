"""diagnosis/diagnostics/training."""

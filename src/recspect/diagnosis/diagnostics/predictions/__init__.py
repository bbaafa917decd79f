"""diagnosis/diagnostics/predictions."""

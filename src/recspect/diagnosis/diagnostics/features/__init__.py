"""diagnosis/diagnostics/features."""

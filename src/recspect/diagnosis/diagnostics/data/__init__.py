"""diagnosis/diagnostics/data."""

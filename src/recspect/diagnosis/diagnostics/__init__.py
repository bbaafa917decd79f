"""diagnosis/diagnostics."""

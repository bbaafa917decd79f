"""diagnosis/diagnostics/recommendations."""

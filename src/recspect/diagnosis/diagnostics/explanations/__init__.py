"""diagnosis/diagnostics/explanations."""

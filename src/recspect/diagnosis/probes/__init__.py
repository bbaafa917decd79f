"""diagnosis/probes."""

"""diagnosis/stats."""

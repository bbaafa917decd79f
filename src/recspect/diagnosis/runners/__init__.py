"""diagnosis/runners."""

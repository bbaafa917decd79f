"""diagnosis/diagnostics/embeddings."""

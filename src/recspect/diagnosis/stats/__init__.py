"""The stats: what can be added up. One idea a file; each registers itself when imported."""

"""Collect: what was shown and what came of it, kept idempotently and durably in DuckDB or PostgreSQL."""

"""Smaller models, each held against the one it was made from: fewer fields, fewer rows, narrower tables, fewer bits."""

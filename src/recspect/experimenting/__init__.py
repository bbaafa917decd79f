"""Experiments: what was measured in each, with its sampling noise, from users or from aggregated tables."""

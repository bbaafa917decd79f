"""recspect: look inside deep recommenders."""

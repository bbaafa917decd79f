"""Public data to try recspect on: where each comes from, its terms, its schema, and one table ready to train on."""

from recspect.datasets.registry import Card, Dataset, card, load, locate, names

__all__ = ["Card", "Dataset", "card", "load", "locate", "names"]

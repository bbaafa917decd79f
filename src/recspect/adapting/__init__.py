"""Evaluation metrics that learn from past experiments which short-term metrics foretell the north star."""

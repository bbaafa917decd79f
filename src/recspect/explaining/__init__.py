"""Why this recommendation: what carried the score, why above another, what would change it, what in training speaks for it, and its way onto the list.

`explainer` puts them together; `sentences` and `templates` put them into words.
"""

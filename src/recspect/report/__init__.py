"""Findings -> text, HTML, JSON; charts from evidence. Nothing below this package draws."""

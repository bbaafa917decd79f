"""Settings searched for on validation rows, and the winner judged once on rows that the search never saw."""

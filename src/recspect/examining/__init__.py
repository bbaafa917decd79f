"""From something to examine to a report: a scored table, a model with tables, or a run of ours.

The rooms below know nothing of each other; here they meet: sources are read, probes look inside, stats add up, diagnostics judge.
Names are imported from their files: `examination` (examine, examine_table), `runs` (examine_run), `doctor`.
"""

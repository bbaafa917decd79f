"""A finding leads to a remedy, the remedy is applied, and held-out data says whether it helped: see docs/optimising.md.

Names are imported from their files: `.optimiser` (optimise), `.hook` (optimise a training of your own), `.proposing` (propose).
"""

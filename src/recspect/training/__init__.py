"""Training: rows in, a run directory out.

Names are imported from their files, so that reading a run's settings needs no Lightning:
`recspect.training.loop` (train, resume), `.run` (Run), `.config` (TrainingConfig), `.predict` (predict).
"""

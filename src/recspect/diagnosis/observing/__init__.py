"""Watching any PyTorch model while it trains; see `recspect.diagnosis.observing.observer`."""

from recspect.diagnosis.observing.held_out import HeldOut
from recspect.diagnosis.observing.histograms import histogram
from recspect.diagnosis.observing.insides import OUTPUT, name_nonfinite, places
from recspect.diagnosis.observing.look import Look
from recspect.diagnosis.observing.observer import Observer
from recspect.diagnosis.observing.rows import HISTOGRAMS, STEPS
from recspect.diagnosis.observing.states import Drift, NormByFrequency, recompute, weight_norms

__all__ = ["HISTOGRAMS", "OUTPUT", "STEPS", "Drift", "HeldOut", "Look", "NormByFrequency", "Observer", "histogram", "name_nonfinite", "places",
           "recompute", "weight_norms"]

"""Features: from the columns of a table to the tensors of a model, and back from files."""

from recspect.features.encoded import Encoded, InputSize
from recspect.features.labels import encode_label
from recspect.features.transform import FeatureTransform

__all__ = ["Encoded", "FeatureTransform", "InputSize", "encode_label"]

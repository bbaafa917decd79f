"""The built-in recommenders: small, readable, each file an equation."""

from recspect.models.build import MODELS, build
from recspect.models.config import ModelConfig
from recspect.models.deepfm import DeepFM
from recspect.models.mlp import MLP

__all__ = ["MLP", "MODELS", "DeepFM", "ModelConfig", "build"]

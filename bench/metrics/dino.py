"""Image alignment by self-supervised features (DINO): any timm model whose weights lie in a local folder.

The usual choice is ViT-S/16 (`vit_small_patch16_224.dino`), resized and cropped as its own configuration says; all
pairs of generated images and references count (CustomConcept101). It looks at whole images, so it means something only
where one concept is in an image.

The embedded world has no such encoder, and its cells have no such metric: what a self-supervised net could learn from
drawn portraits is what the identity encoder, CLIP and the attribute classifier already measure on them, and its weights
would not fit beside theirs in the 25 MB that the repository carries.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

from seqlora.errors import StoredFileError
from seqlora.files import read_tensors

Pixels = NDArray[np.uint8]
CONFIG, WEIGHTS = "config.json", "model.safetensors"  # as timm's `save_for_hf` and the hub name them


class DinoJudge:
    """A timm model without its classifier.

    Args:
        folder: holds `config.json` (architecture, preprocessing) and `model.safetensors`.
        device: where it runs.
        batch: images at a time.

    Raises:
        StoredFileError: a file is missing or broken, or weights and architecture do not fit.
    """

    def __init__(self, folder: str | Path, device: str = "cpu", batch: int = 32) -> None:
        folder = Path(folder)
        try:
            model = timm.create_model(f"local-dir:{folder}", pretrained=False, num_classes=0)
        except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
            raise StoredFileError(f"{folder} describes no timm model ({error}); it needs timm's config.json") from error
        state = read_tensors(folder / WEIGHTS)
        wanted = model.state_dict()
        wrong = [name for name in wanted if name not in state or state[name].shape != wanted[name].shape]
        if wrong:
            raise StoredFileError(f"{folder / WEIGHTS} does not fit its config.json: {wrong[0]} is missing or differs")
        model.load_state_dict({name: state[name] for name in wanted})  # the classifier's weights stay behind
        self.model, self.device, self.batch = model.eval().to(device), device, batch
        self.preprocess = create_transform(**resolve_model_data_config(model), is_training=False)

    @torch.no_grad()
    def images(self, images: Pixels) -> NDArray[np.float64]:
        """(n, d) unit features of (n, H, W, 3) uint8 images."""
        pixels = torch.stack([self.preprocess(Image.fromarray(image)) for image in images])
        parts = [self.model(some.to(self.device)).double().cpu() for some in pixels.split(self.batch)]
        features: NDArray[np.float64] = torch.nn.functional.normalize(torch.cat(parts), dim=1).numpy()
        return features

    def alignment(self, images: Pixels, references: Pixels) -> NDArray[np.float64]:
        """DINO, (n,): mean cosine with all references."""
        mean: NDArray[np.float64] = (self.images(images) @ self.images(references).T).mean(axis=1)
        return mean

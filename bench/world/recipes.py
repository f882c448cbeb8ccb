"""The recipes that produce the released weights, in the order in which `pretrain all` runs them.

Every recipe resumes from its last checkpoint under the cache folder. `release.py` turns what they leave into the files
of `bench/world/weights`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from bench.world.autoencoder import SCALING, PatchPCA, build_autoencoder, decoder_loss, pca_file, to_tensor
from bench.world.captions import caption
from bench.world.classifier import AttributeClassifier, classifier_loss
from bench.world.clip import ClipTraining, clip_loss
from bench.world.data import DATA_VERSION, FigurePool, cache_folder, load_pool
from bench.world.diffusion import TextToImage, build_pipeline, build_text_encoder, diffusion_loss
from bench.world.identity import ArcFaceTraining, identity_loss, people_numbers
from bench.world.sampling import grid, sample
from bench.world.tokens import build_tokenizer
from bench.world.training import MasterAdamW, TrainingPlan, generators, train, watch
from bench.world.words import WordTraining, word_loss
from seqlora.errors import StoredFileError
from seqlora.files import atomic_write, read_tensors, write_tensors

M = TypeVar("M", bound=Any)  # a torch module; the classes of diffusers carry no types


@dataclass(frozen=True)
class Place:
    """Where a training runs.

    Args:
        device: "cpu", "cuda", ...
        dtype: of weights and activations in the forward pass (masters stay float32).
    """

    device: str = "cpu"
    dtype: torch.dtype = torch.bfloat16

    def put(self, model: M) -> M:
        """Move a model there (module by module, so that float32 buffers of the loss stay exact)."""
        for child in model.children():
            child.to(self.device, self.dtype)
        return model.to(self.device).train()


def folder() -> Path:
    """Checkpoints, logs and sample grids of the current data version."""
    return cache_folder() / f"training-v{DATA_VERSION}"


def averaged_file(name: str) -> Path:
    """Where the averaged weights of a finished (or running) training are kept, float32."""
    return folder() / f"{name}.averaged.safetensors"


def save_averaged(name: str, optimiser: MasterAdamW) -> None:
    """Keep the averaged weights apart from the checkpoint."""
    write_tensors(averaged_file(name), optimiser.averaged())


def load_averaged(name: str, model: M) -> M:
    """Load the averaged weights of a training into a float32 model, in evaluation mode."""
    path = averaged_file(name)
    keys = model.load_state_dict(read_tensors(path), strict=False)
    # Absent may be what this training did not learn: the autoencoder's written encoder, the frozen text encoder.
    frozen = ("encoder.", "text_encoder.")
    strange = [*keys.unexpected_keys, *(key for key in keys.missing_keys if not key.startswith(frozen))]
    if strange:
        raise StoredFileError(f"{path} does not fit its model ({strange[0]}); delete it and train {name} again")
    return model.float().eval()


def fit_pca(pool: FigurePool) -> PatchPCA:
    """Fit the patch transform once, to 4,000 portraits, and keep it."""
    path = pca_file(folder())
    if not path.is_file():
        images, _ = pool.portraits(np.arange(min(4000, len(pool))), np.random.default_rng(DATA_VERSION))
        pca = PatchPCA.fit(images)
        write_tensors(path, {"mean": pca.mean, "forward": pca.forward, "inverse": pca.inverse})
    return PatchPCA(**read_tensors(path))


WORDS = TrainingPlan("words", steps=1500, lr=2e-3, entropy=16, decay=0.4)
WORDS_BATCH = 64
DIFFUSION = TrainingPlan("diffusion", steps=9000, lr=1e-3, entropy=11, warmup=200, decay=0.3, ema=0.99)
DIFFUSION_BATCH = 32
PREVIEW_EVERY = 1000  # steps between sample grids
IDENTITY = TrainingPlan("identity", steps=4000, lr=2e-3, entropy=13, decay=0.5, weight_decay=0.05)
CLASSIFIER = TrainingPlan("classifier", steps=800, lr=2e-3, entropy=14, decay=0.5, weight_decay=0.05)
CLIP = TrainingPlan("clip", steps=2300, lr=3e-3, entropy=15, decay=0.4, weight_decay=0.05)
JUDGE_BATCH = 128
CLIP_BATCH = 64
DECODER = TrainingPlan("decoder", steps=1700, lr=2e-3, entropy=12, decay=0.5)


def train_words(place: Place) -> None:
    """The text encoder, from captions alone."""
    torch.manual_seed(WORDS.entropy)
    tokenizer = build_tokenizer()
    model = place.put(WordTraining(tokenizer, build_text_encoder(tokenizer)))
    finish(WORDS, train(model, word_loss(model, load_pool("base"), WORDS_BATCH), WORDS, folder()))
    write_tensors(averaged_file(WORDS.name), model.text_encoder.float().state_dict())


def load_text_to_image(unet: bool = True) -> TextToImage:
    """The text encoder as trained on captions and (unless `unet` is false) the averaged denoiser."""
    model = TextToImage.build()
    load_averaged(WORDS.name, model.text_encoder)
    return load_averaged(DIFFUSION.name, model) if unet else model


def train_diffusion(place: Place) -> None:
    """Text-to-image training, the long one; the text encoder is frozen."""
    pool = load_pool("base")
    pca = fit_pca(pool)
    torch.manual_seed(DIFFUSION.entropy)
    model = place.put(load_text_to_image(unet=False))
    model.text_encoder.requires_grad_(False)
    held_out = load_pool("held-out")

    def on_checkpoint(optimiser: MasterAdamW, step: int) -> None:
        save_averaged(DIFFUSION.name, optimiser)
        if not (folder() / f"grid-{step // PREVIEW_EVERY:03d}.png").is_file():
            preview(held_out, pca, folder() / f"grid-{step // PREVIEW_EVERY:03d}.png")

    steps = train(model, diffusion_loss(model, pca, pool, DIFFUSION_BATCH), DIFFUSION, folder(), on_checkpoint)
    finish(DIFFUSION, steps)


def train_decoder(place: Place) -> None:
    """The autoencoder's decoder; its encoder is written, not learnt."""
    pool = load_pool("base")
    pca = fit_pca(pool)
    torch.manual_seed(DECODER.entropy)
    autoencoder: Any = build_autoencoder()
    pca.write_into(autoencoder)
    autoencoder.encoder.requires_grad_(False)
    place.put(autoencoder)

    def on_checkpoint(optimiser: MasterAdamW, step: int) -> None:
        save_averaged(DECODER.name, optimiser)

    finish(DECODER, train(autoencoder, decoder_loss(autoencoder, pca, pool), DECODER, folder(), on_checkpoint))


def train_identity(place: Place) -> None:
    """The ArcFace encoder."""
    pool = load_pool("people")
    numbers, count = people_numbers(pool)
    torch.manual_seed(IDENTITY.entropy)
    model = place.put(ArcFaceTraining(count))
    loss = identity_loss(model, pool, numbers, JUDGE_BATCH, ramp=IDENTITY.steps // 3)
    finish(IDENTITY, train(model, loss, IDENTITY, folder()))
    keep_with_statistics(IDENTITY, model.encoder, pool, model.encoder)


def train_classifier(place: Place) -> None:
    """The attribute classifier with its face-found logit."""
    pool, people = load_pool("base"), load_pool("people")
    torch.manual_seed(CLASSIFIER.entropy)
    model = place.put(AttributeClassifier())
    finish(CLASSIFIER, train(model, classifier_loss(model, pool, people, JUDGE_BATCH), CLASSIFIER, folder()))
    keep_with_statistics(CLASSIFIER, model, pool, model)


def train_clip(place: Place) -> None:
    """The CLIP model, always in float32 (for so many small layers bfloat16 is slower on CPUs)."""
    torch.manual_seed(CLIP.entropy)
    model = Place(place.device, torch.float32).put(ClipTraining(build_tokenizer()))
    finish(CLIP, train(model, clip_loss(model, load_pool("base"), CLIP_BATCH), CLIP, folder()))
    keep_with_statistics(CLIP, model.clip, load_pool("base"), model.clip.encode_image)


@torch.no_grad()
def keep_with_statistics(plan: TrainingPlan, model: Any, pool: FigurePool, forward: Callable[[Tensor], Any]) -> None:
    """Measure batch normalisation's means anew under the averaged weights, then keep the whole state."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over all batches that follow
    model.float().train()
    device = next(model.parameters()).device
    for step in range(30):
        rng, _ = generators(plan.entropy, plan.steps + step)
        forward(to_tensor(pool.batch(rng, 256)[0]).to(device))
    write_tensors(averaged_file(plan.name), model.state_dict())


def preview(pool: FigurePool, pca: PatchPCA, path: Path) -> None:
    """Write a sample grid of the averaged weights: real portraits above the images drawn from their captions."""
    model = load_text_to_image()
    autoencoder: Any = build_autoencoder()
    pca.write_into(autoencoder)
    if averaged_file("decoder").is_file():
        load_averaged("decoder", autoencoder)
    real, shown = pool.portraits(np.arange(16), np.random.default_rng(0))
    pipeline: Any = build_pipeline(model, autoencoder)
    if not averaged_file("decoder").is_file():
        pipeline.vae.decode = lambda z, **_: (pca.decode(z * SCALING),)
    drawn = sample(pipeline, [caption(s) for s in shown], np.random.default_rng(0))
    sheet = grid(np.concatenate([real[:8], drawn[:8], real[8:], drawn[8:]]), columns=8)
    save_image(path, sheet)


def save_image(path: Path, image: np.ndarray, zoom: int = 2) -> None:
    """Write a PNG, enlarged without smoothing."""
    with atomic_write(path) as temporary:
        large = image.repeat(zoom, 0).repeat(zoom, 1)
        Image.fromarray(large).save(temporary, format="PNG")


def finish(plan: TrainingPlan, steps: Iterator[tuple[int, float]]) -> None:
    """Run a training to its end, keeping its log."""
    watch(steps, plan, folder() / f"{plan.name}.log.json")

"""A Stable Diffusion small enough to train in a test, and concepts to train it on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import insightface
import numpy as np
import pytest
import skimage.data
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel

from bench import cli
from bench.personalise.images import ConceptImages
from bench.personalise.learner import Budget
from bench.personalise.shared import Training
from bench.world.tokens import build_tokenizer

SIZE = 16


def build_pipeline() -> StableDiffusionPipeline:
    """The same random weights at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        tokenizer = build_tokenizer()
        end = tokenizer.eos_token_id
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                num_attention_heads=2, max_position_embeddings=32, bos_token_id=tokenizer.bos_token_id,
                eos_token_id=end, pad_token_id=end,
            )
        )  # fmt: skip
        unet = UNet2DConditionModel(
            sample_size=4, in_channels=4, out_channels=4, block_out_channels=(32, 32), layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=32, attention_head_dim=2,
            norm_num_groups=8,
        )  # fmt: skip
        vae = AutoencoderTiny(
            latent_channels=4, encoder_block_out_channels=(8, 8, 8), decoder_block_out_channels=(8, 8, 8),
            num_encoder_blocks=(1, 1, 1), num_decoder_blocks=(1, 1, 1),
        )  # fmt: skip
    scheduler = DDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False
    )
    pipeline = StableDiffusionPipeline(
        vae=vae.eval(), text_encoder=text.eval(), tokenizer=tokenizer, unet=unet.eval(), scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def load() -> Callable[[], Any]:
    return build_pipeline


@pytest.fixture
def concepts() -> tuple[ConceptImages, ...]:
    rng = np.random.default_rng(0)

    def one(name: str) -> ConceptImages:
        images = rng.integers(0, 256, (5, SIZE, SIZE, 3), dtype=np.uint8)
        return ConceptImages(name, "person", images[:3], (("a photo of {}", "{}"),) * 3, images[3:])

    return one("ann"), one("bob"), one("cem")


@pytest.fixture
def training(concepts: tuple[ConceptImages, ...], tmp_path: Path) -> Training:
    seeds = tuple(np.random.SeedSequence(7, spawn_key=(j,)) for j in range(len(concepts)))
    return Training("tiny", concepts, seeds, Budget(steps=3, batch=2), tmp_path)


@contextmanager
def products(convolution: Any) -> Iterator[list[torch.Tensor]]:
    """While open, what the convolution's weight gives is appended: its outputs less the bias, (b, m, positions)."""
    kept: list[torch.Tensor] = []
    handle = convolution.register_forward_hook(
        lambda module, _, output: kept.append((output - module.bias[:, None, None]).flatten(2).double())
    )
    try:
        yield kept
    finally:
        handle.remove()


def bench(*arguments: object) -> int:
    """Run `python -m bench` in this process; returns its exit code."""
    old = sys.argv
    sys.argv = ["bench", *map(str, arguments)]
    try:
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    finally:
        sys.argv = old
    return int(stopped.value.code or 0)


def save_base(folder: Path, seed: int = 0) -> Path:
    """A whole diffusers folder with a proper autoencoder: what a user's Stable Diffusion looks like, but tiny."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        pipeline = build_pipeline()
        vae = AutoencoderKL(
            latent_channels=4, block_out_channels=(8, 8), norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        )  # fmt: skip
        unet = UNet2DConditionModel.from_config({**pipeline.unet.config, "sample_size": 16})
    scheduler = DDIMScheduler(clip_sample=False, steps_offset=1)  # predicts noise, as Stable Diffusion 1.x
    parts = {**pipeline.components, "vae": vae.eval(), "unet": unet.eval(), "scheduler": scheduler}
    StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def photo_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real photographs that ship in packages, four crops each, in DreamBooth's layout."""
    folder = tmp_path_factory.mktemp("photos")
    group = Path(insightface.__file__).parent / "data" / "images" / "t1.jpg"
    for name, word, photo in (
        ("chelsea", "cat", skimage.data.chelsea()),
        ("eileen", "person", skimage.data.astronaut()),
        ("friends", "person", np.asarray(Image.open(group))),
    ):
        (folder / name).mkdir()
        (folder / name / "class.txt").write_text(word)
        for i, corner in enumerate(((0, 0), (0, 60), (40, 0), (40, 60))):
            top, left = corner
            Image.fromarray(photo[top : top + 240, left : left + 280]).save(folder / name / f"{i}.jpg")
    return folder

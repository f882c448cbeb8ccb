"""The small Stable Diffusion: its networks, its training loss and its `StableDiffusionPipeline` folder.

v-prediction with zero terminal SNR: with x_t = a_t x_0 + s_t e, the network predicts v = a_t e - s_t x_0, so pure noise
is a step like any other. The text encoder is trained before, on captions alone (`words.py`), and then frozen.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from bench.world.attributes import VALUES
from bench.world.autoencoder import LATENT_CHANNELS, PATCH, PatchPCA, to_tensor
from bench.world.captions import CLASS_WORD
from bench.world.data import FigurePool
from bench.world.portraits import SIZE, crop
from bench.world.scenes import WIDTH, join, short_scene_caption
from bench.world.tokens import LENGTH, SPARE_TOKENS, build_tokenizer, spare_token
from bench.world.training import LossFunction

UNET_CHANNELS = (64, 128, 160)
TEXT_WIDTH = 144
SNR_CAP = 20.0  # loss weight 1 up to this signal-to-noise ratio, then falling as 1 / SNR
CAPTION_DROPOUT = 0.1  # share of empty captions, for classifier-free guidance
SCENE_EVERY = 6  # one step in six shows two-person scenes


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's schedule, rescaled to zero terminal SNR."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=True,
    )


def build_unet(channels: tuple[int, int, int] = UNET_CHANNELS, text_width: int = TEXT_WIDTH) -> UNet2DConditionModel:
    """The denoiser; cross- and self-attention at 8 x 8 and 4 x 4 (inputs 128, 160 and the text's 144 wide)."""
    unet: Any = UNet2DConditionModel(
        sample_size=SIZE // PATCH,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=channels,
        layers_per_block=1,
        cross_attention_dim=text_width,
        attention_head_dim=4,  # in this class: the number of heads
        norm_num_groups=16,
    )
    # Spelled-out attention: on CPUs its backward pass is faster than the fused kernel's.
    unet.set_attn_processor(AttnProcessor())
    return unet


def build_text_encoder(tokenizer: CLIPTokenizer, width: int = TEXT_WIDTH) -> CLIPTextModel:
    """A three-layer CLIP text model over the caption words."""
    end = tokenizer.eos_token_id
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=end,
        pad_token_id=end,
    )
    return CLIPTextModel(config)


class TextToImage(nn.Module):
    """UNet and text encoder as one module.

    Args:
        tokenizer: turns captions into ids.
        unet, text_encoder: the networks.
    """

    signal: Tensor
    noise: Tensor
    weight: Tensor

    def __init__(self, tokenizer: Any, unet: Any, text_encoder: Any) -> None:
        super().__init__()
        self.tokenizer, self.unet, self.text_encoder = tokenizer, unet, text_encoder
        scheduler: Any = build_scheduler()
        alphas = scheduler.alphas_cumprod.float()
        self.register_buffer("signal", alphas.sqrt(), persistent=False)
        self.register_buffer("noise", (1 - alphas).sqrt(), persistent=False)
        weight = (SNR_CAP + 1) * (1 - alphas)  # = (cap + 1) / (SNR + 1), as 1 - alpha = 1 / (SNR + 1)
        self.register_buffer("weight", weight.clamp(max=1.0), persistent=False)

    @classmethod
    def build(cls) -> TextToImage:
        """An untrained model of the released shape."""
        tokenizer = build_tokenizer()
        return cls(tokenizer, build_unet(), build_text_encoder(tokenizer))

    def encode(self, captions: list[str]) -> Tensor:
        """(n, 32, width) text states."""
        ids = self.tokenizer(captions, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
        return self.text_encoder(ids.input_ids.to(self.signal.device)).last_hidden_state

    def forward(self, latents: Tensor, captions: list[str], t: Tensor, noise: Tensor) -> Tensor:
        """Weighted v-prediction loss of a batch (float32 scalar)."""
        a, s = self.signal[t][:, None, None, None], self.noise[t][:, None, None, None]
        dtype = self.unet.dtype
        v = a * noise - s * latents
        predicted = self.unet((a * latents + s * noise).to(dtype), t, self.encode(captions)).sample
        return (self.weight[t] * (predicted.float() - v).square().mean((1, 2, 3))).mean()


def scene_batch(pool: FigurePool, rng: np.random.Generator, size: int) -> tuple[np.ndarray, list[str]]:
    """Random two-person scenes, (n, 64, 128, 3) uint8, with captions."""
    images, captions = np.empty((size, SIZE, WIDTH, 3), np.uint8), []
    for row in range(size):
        pair = rng.integers(len(pool), size=2)
        wall = {name: VALUES[name][rng.integers(len(VALUES[name]))] for name in ("background", "pattern")}
        figures = [crop(f, (int(rng.integers(-2, 3)), int(rng.integers(-2, 3)))) for f in pool.figures(pair)]
        images[row] = join(figures, wall["background"], wall["pattern"])
        captions.append(short_scene_caption(pool.shown[pair[0]], pool.shown[pair[1]], wall, rng))
    return images, captions


def diffusion_loss(model: TextToImage, pca: PatchPCA, pool: FigurePool, batch: int) -> LossFunction:
    """The training loss: portraits, and scenes (half as many, twice as wide) on one step in `SCENE_EVERY`."""

    def loss(step: int, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        scenes = step % SCENE_EVERY == SCENE_EVERY - 1
        images, captions = scene_batch(pool, rng, batch // 2) if scenes else pool.batch(rng, batch)
        captions = ["" if rng.random() < CAPTION_DROPOUT else text for text in captions]
        latents = pca.encode(to_tensor(images))
        t = torch.randint(0, len(model.signal), (len(latents),), generator=generator)
        noise = torch.randn(latents.shape, generator=generator)
        device = model.signal.device
        return model(latents.to(device), captions, t.to(device), noise.to(device))

    return loss


@torch.no_grad()
def build_pipeline(model: TextToImage, autoencoder: AutoencoderTiny) -> StableDiffusionPipeline:
    """Put the trained parts together; spare tokens start at the class word's embedding."""
    embedding = model.text_encoder.get_input_embeddings().weight
    source = model.tokenizer.convert_tokens_to_ids(f"{CLASS_WORD}</w>")
    spare = model.tokenizer.convert_tokens_to_ids([spare_token(i) for i in range(SPARE_TOKENS)])
    embedding[spare] = embedding[source].clone()
    return StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=model.text_encoder,
        tokenizer=model.tokenizer,
        unet=model.unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )

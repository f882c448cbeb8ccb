"""Text encoder and UNet as one module, and the diffusion loss of a batch.

    x_t = a_t x_0 + s_t ε,      loss = w_t ‖prediction - target‖²,      target = ε,  or  v = a_t ε - s_t x_0

with w_t = 1 for ε-prediction, and for v-prediction min(1, (c + 1) / (SNR_t + 1)), c = 20, so that nearly clean images
do not dominate.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seqlora.errors import BadInputError

SNR_CAP = 20.0


@dataclass(frozen=True)
class Batch:
    """What one training step sees.

    Attributes:
        latents: clean images, (b, c, h, w).
        noise: ε, the same shape.
        t: timesteps, (b,).
        ids: token ids of the captions, (b, length).
        mask: where the loss counts, (b, 1, h, w), or None for everywhere.
        replayed: what must not change meanwhile, or None.
    """

    latents: Tensor
    noise: Tensor
    t: Tensor
    ids: Tensor
    mask: Tensor | None = None
    replayed: Replayed | None = None


@dataclass(frozen=True)
class Replayed:
    """Noisy images, and what the network said of them before, see `bench.personalise.replay`.

    Attributes:
        noisy: x_t, (b, c, h, w).
        t: timesteps, (b,).
        states: of the text encoder, (b, length, d).
        prediction: what was predicted, (b, c, h, w).
        factor: λ, how much their loss counts.
    """

    noisy: Tensor
    t: Tensor
    states: Tensor
    prediction: Tensor
    factor: float


class Denoiser(nn.Module):
    """The trainable parts of a Stable Diffusion pipeline, under the names that diffusers gives them.

    Args:
        pipeline: a loaded pipeline; its modules are used, not copied.
        bfloat16: compute in mixed precision (weights stay as they are).
    """

    signal: Tensor
    deviation: Tensor

    def __init__(self, pipeline: Any, bfloat16: bool = False) -> None:
        super().__init__()
        self.unet, self.text_encoder = pipeline.unet, pipeline.text_encoder
        self.mixed = bfloat16
        self.predicts = str(pipeline.scheduler.config.prediction_type)
        if self.predicts not in ("epsilon", "v_prediction"):
            raise BadInputError(f"the scheduler predicts {self.predicts!r}; 'epsilon' and 'v_prediction' are known")
        alphas = pipeline.scheduler.alphas_cumprod.to(self.unet.device, torch.float32)
        self.register_buffer("signal", alphas.sqrt(), persistent=False)
        self.register_buffer("deviation", (1 - alphas).sqrt(), persistent=False)

    def precision(self) -> AbstractContextManager[Any]:
        """Mixed precision if it was asked for."""
        if not self.mixed:
            return nullcontext()
        return torch.autocast(self.signal.device.type, dtype=torch.bfloat16)

    def forward(self, batch: Batch) -> Tensor:
        """The network's prediction for a batch, float32, in the shape of the latents."""
        with self.precision():
            states = self.text_encoder(batch.ids).last_hidden_state
        return self.predict(self.noisy(batch), batch.t, states)

    def noisy(self, batch: Batch) -> Tensor:
        """x_t = a_t x_0 + s_t ε."""
        a, s = self._levels(batch.t)
        return a * batch.latents + s * batch.noise

    def predict(self, noisy: Tensor, t: Tensor, states: Tensor) -> Tensor:
        """The prediction for noisy images and states of the text encoder."""
        with self.precision():
            return self.unet(noisy.to(self.unet.dtype), t, states).sample.float()

    def _levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.signal[t][:, None, None, None], self.deviation[t][:, None, None, None]


def diffusion_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean weighted loss of a batch (over the mask, where there is one); `model` is a `Denoiser`.

    With something to replay, λ times the mean of w (f - f_before)² on that is added.
    """
    assert isinstance(model, Denoiser)
    a, s = model._levels(batch.t)
    target = batch.noise if model.predicts == "epsilon" else a * batch.noise - s * batch.latents
    loss = (loss_weight(model, batch.t, batch.mask) * (model(batch) - target).square()).mean()
    if (old := batch.replayed) is None:
        return loss
    changed = model.predict(old.noisy, old.t, old.states) - old.prediction
    return loss + old.factor * (loss_weight(model, old.t) * changed.square()).mean()


def sampled_loss(model: nn.Module, batch: Batch) -> Tensor:
    """A number whose gradients are those of a loss whose target is drawn from the model itself: they make the Fisher.

    The loss is the negative log likelihood of a Gaussian with precision w around the prediction f, so that such a
    gradient at f is √w z, z ~ N(0, I), here over √n. A change Δf then has, on average over z (torch's generator),

        <√w z, Δf>² / n  =  mean of w Δf²,

    whatever the residuals of f are: those of `diffusion_loss` itself, the empirical Fisher, are nearly nothing in what
    the model has learnt well.
    """
    assert isinstance(model, Denoiser)
    prediction = model(batch)
    noise = torch.randn(prediction.shape).to(prediction)
    return (scaled_prediction(model, batch, prediction) * noise).sum() / prediction.numel() ** 0.5


def scaled_prediction(model: Denoiser, batch: Batch, prediction: Tensor) -> Tensor:
    """√w f: the mean square of a difference of two is the loss that one has if the other is its target."""
    weight = loss_weight(model, batch.t, batch.mask)
    return (weight.sqrt() if isinstance(weight, Tensor) else weight**0.5) * prediction


def loss_weight(model: Denoiser, t: Tensor, mask: Tensor | None = None) -> Tensor | float:
    """w, which squared errors are multiplied by at timesteps (b,), with the mask (b, 1, h, w) where there is one."""
    _, s = model._levels(t)
    # 1 / (SNR + 1) = s², as a² + s² = 1
    weight = ((SNR_CAP + 1) * s.square()).clamp(max=1.0) if model.predicts == "v_prediction" else 1.0
    return weight if mask is None else weight * mask / mask.mean((1, 2, 3), keepdim=True).clamp_min(1e-6)

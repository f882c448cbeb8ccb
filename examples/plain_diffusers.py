"""Draw a learnt concept with nothing but diffusers: load a pipeline, the concept's LoRA and its token, draw.

python -m bench export results/bench cat exported/cat --method plain-sum
python examples/plain_diffusers.py path/to/base exported/cat "a photo of <cat> cat in the snow" cat.png
"""

import argparse
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
for name in ("base", "concept", "prompt", "image"):
    parser.add_argument(name)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--steps", type=int, default=30)
parser.add_argument("--guidance", type=float, default=7.5)
arguments = parser.parse_args()

pipeline = StableDiffusionPipeline.from_pretrained(arguments.base, safety_checker=None, requires_safety_checker=False)
pipeline.load_textual_inversion(arguments.concept, weight_name="token.safetensors")  # the word <cat>
if Path(arguments.concept, "pytorch_lora_weights.safetensors").is_file():
    pipeline.load_lora_weights(arguments.concept)  # scale 1; several concepts: adapter_name=..., then set_adapters
images = pipeline(
    arguments.prompt,
    num_inference_steps=arguments.steps,
    guidance_scale=arguments.guidance,
    generator=torch.Generator().manual_seed(arguments.seed),
    output_type="np",
).images
pipeline.numpy_to_pil(images)[0].save(arguments.image)

"""The embedded world: portraits, a small Stable Diffusion, and the models that judge its images."""

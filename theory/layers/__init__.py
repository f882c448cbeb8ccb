"""Where activations come from: synthetic spectra, real transformers, the diffusion model."""

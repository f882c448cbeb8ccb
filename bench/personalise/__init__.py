"""Teach a Stable Diffusion pipeline new concepts from a few images: tokens and LoRA through `ConceptSequence`."""

"""Sequential orthogonal LoRA: learn concepts one after another, merge them by a plain sum."""

__version__ = "0.1.0"

"""Methods of the trained layers: the library's own optimiser on a problem whose best answer is known.

The family "linear" stands at the closed-form optimum, so nothing in it depends on how the bilevel optimiser steps.
Here the same problem is learnt as a network learns it, step by step, and what the optimiser does shows.
"""

from bench.methods.linear.api import LinearMethod
from bench.methods.trained.sequential import PlainSequence, SeqLoRA
from bench.registry import Registry

METHODS: Registry[LinearMethod] = Registry("trained method")
for _method in (SeqLoRA(), PlainSequence()):
    METHODS.add(_method.name, _method)

__all__ = ["METHODS"]

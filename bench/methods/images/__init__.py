"""Methods of the image tasks. All train with one budget; merge methods of a family share its trainings."""

from bench.methods.images.ablations import ABLATIONS
from bench.methods.images.api import METHODS, ImageMethod, Workshop
from bench.methods.images.base import Base, TokenOnly, TokenOnlyLayerwise
from bench.methods.images.frozen import (
    FrozenOrthonormal,
    FrozenRandom,
    FrozenSame,
    OrthogonalAdaptation,
    OrthogonalAdaptationWeight,
)
from bench.methods.images.fusion import Fusion, FusionFrozen, FusionLBFGS
from bench.methods.images.mix_of_show import EDLoRAAverage, MixOfShow, MixOfShowExact
from bench.methods.images.plain import PlainAverage, PlainNormMatched, PlainSum
from bench.methods.images.sequential import (
    Alternating,
    PenaltyOnly,
    SeqLoRA,
    SeqLoRAPenalty,
    SeqLoRAPenaltyKronecker,
    SeqLoRAPenaltyLayerwise,
    SeqLoRAReplay,
)

# In the order of tables and legends.
for _method in (
    Base(),
    TokenOnly(),
    TokenOnlyLayerwise(),
    PlainSum(),
    PlainAverage(),
    PlainNormMatched(),
    Alternating(),
    FrozenRandom(),
    FrozenSame(),
    FrozenOrthonormal(),
    OrthogonalAdaptationWeight(),
    OrthogonalAdaptation(),
    SeqLoRA(),
    SeqLoRAPenalty(),
    SeqLoRAPenaltyLayerwise(),
    SeqLoRAPenaltyKronecker(),
    SeqLoRAReplay(),
    PenaltyOnly(),
    *ABLATIONS,
    Fusion(),
    FusionFrozen(),
    FusionLBFGS(),
    EDLoRAAverage(),
    MixOfShow(),
    MixOfShowExact(),
):
    METHODS.add(_method.name, _method)

__all__ = ["METHODS", "ImageMethod", "Workshop"]

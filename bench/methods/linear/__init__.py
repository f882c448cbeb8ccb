"""Methods of the linear tasks. Where the optimum has a closed form, the method is at it: no step size to tune."""

from bench.methods.linear.alternating import Alternating
from bench.methods.linear.api import METHODS, LinearMethod, LinearProblem, LowRank, Stage
from bench.methods.linear.frozen import FrozenOrthonormal, FrozenOrthonormalSequence, FrozenRandom, FrozenRandomSequence
from bench.methods.linear.fusion import Fusion, FusionFrozen
from bench.methods.linear.joint import Base, Joint, JointRank
from bench.methods.linear.plain import PlainAverage, PlainNormMatched, PlainSum
from bench.methods.linear.sequential import PenaltyOnly, PlainSequence, SeqLoRA, SeqLoRAPenalty

# In the order of tables and legends.
for _method in (
    Base(),
    PlainSum(),
    PlainAverage(),
    PlainNormMatched(),
    PlainSequence(),
    Alternating(),
    FrozenRandom(),
    FrozenRandomSequence(),
    FrozenOrthonormal(),
    FrozenOrthonormalSequence(),
    SeqLoRA(),
    SeqLoRAPenalty(),
    PenaltyOnly(),
    Fusion(),
    FusionFrozen(),
    JointRank(),
    Joint(),
):
    METHODS.add(_method.name, _method)

__all__ = ["METHODS", "LinearMethod", "LinearProblem", "LowRank", "Stage"]

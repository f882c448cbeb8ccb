"""What a method would train, found by asking it: methods that train the same share one training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

from bench.methods.images.api import ImageMethod
from bench.personalise.tokens import PLAIN_WORD, WordStyle
from seqlora import SeqLoRAConfig


class _Asked(Exception):
    """Carries what was asked for out of `train`."""


@dataclass(frozen=True)
class _Ear:
    """A workshop that trains nothing; the first training that it is asked for leaves it as an exception."""

    rank: int
    names: tuple[str, ...]
    layers: str
    seed: int = 0
    rates: Mapping[str, Any] = field(default_factory=dict)

    def trained(self, config: SeqLoRAConfig, style: WordStyle = PLAIN_WORD, **options: Any) -> NoReturn:
        raise _Asked({"config": config.to_json(), "style": asdict(style), **options})

    def words(self, rate: float, style: WordStyle = PLAIN_WORD) -> NoReturn:
        raise _Asked({"rate": rate, "style": asdict(style)})


def asked_training(method: ImageMethod, rank: int, names: tuple[str, ...], layers: str) -> str:
    """A text that is the same for methods that share a training; "" for a method without any."""
    ear: Any = _Ear(rank, names, layers)
    try:
        method.train(ear)
    except _Asked as asked:
        return json.dumps(asked.args[0], sort_keys=True)
    return ""

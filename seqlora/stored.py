"""A merged model whose concepts, and what the penalty remembers of them, live in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from seqlora import storage
from seqlora.adapters import AdaptedLayer
from seqlora.config import SeqLoRAConfig
from seqlora.errors import BadInputError
from seqlora.merged import MergedModel
from seqlora.past import Past


class StoredModel(MergedModel):
    """Writes all concepts to a folder and takes them up again.

    Args:
        model: see `MergedModel`.
        layers: see `MergedModel`.
        config: stored with the concepts; a folder of another one is refused.
    """

    def __init__(self, model: nn.Module, layers: list[AdaptedLayer], config: SeqLoRAConfig) -> None:
        super().__init__(model, layers)
        self.config = config
        self.past = Past.empty({name: W0.shape[1] for name, W0 in self.base.items()})
        self._stored: dict[Path, dict[str, dict[str, str]]] = {}  # folder -> entries that we wrote or read there

    def save_pretrained(self, folder: str | Path) -> None:
        """Store all concepts and, if kept, the past moments; a crash leaves the folder's former state."""
        folder = Path(folder)
        if folder.resolve() not in self._stored and (folder / storage.INDEX).exists():
            raise BadInputError(f"{folder} already holds a sequence; choose another folder")
        known = self._stored.setdefault(folder.resolve(), {})
        entries = [known.get(name) or storage.write_concept(folder, c) for name, c in self.concepts.items()]
        known.update(zip(self.concepts, entries, strict=True))
        moments: dict[str, Any] = {"remembered": self.past.count, "names": self.past.names, "file": ""}
        if self.past.count:
            moments["file"] = f"moments-{self.past.count}.safetensors"
            storage.write_moments(folder / moments["file"], self.past.factors, self.past.output_moments)
        storage.write_index(folder, self.config.to_json(), entries, moments)
        for old in folder.glob("moments-*.safetensors"):
            if old.name != moments["file"]:
                old.unlink()

    def load(self, folder: Path, check_config: bool) -> None:
        """Take up all concepts and past moments of a folder.

        Raises:
            StoredFileError: files missing, truncated, altered, of another schema, or for another model.
            BadInputError: with `check_config`, a sequence of another configuration.
        """
        index = storage.read_index(folder)
        if check_config:
            storage.check_config(folder, index["config"], self.config)
        shapes = {layer.name: (layer.weight.shape[0], layer.weight.shape[1]) for layer in self.layers}
        for entry in index["concepts"]:
            self.adopt(storage.read_concept(folder, entry, shapes))
        self._stored[folder.resolve()] = dict(zip(self.concepts, index["concepts"], strict=True))
        self.past.count = int(index["moments"]["remembered"])
        self.past.names = list(index["moments"].get("names", []))
        if index["moments"]["file"]:
            with_outputs = self.config.forgetting_scale == "kronecker"
            kept = storage.read_moments(folder, index["moments"]["file"], shapes, with_outputs)
            self.past.factors, self.past.output_moments = kept

"""What to do where the bases of all concepts do not fit into a layer: decided before training (claim C6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from seqlora.config import CapacityPolicy, SeqLoRAConfig
from seqlora.errors import CapacityError
from seqlora.subspace import capacity


@dataclass(frozen=True)
class LayerPlan:
    """How the bases of one layer are chosen.

    Attributes:
        rank: directions of each concept in this layer.
        mode: "orthogonal" (each basis in the complement of the earlier ones), "spread" (least-overlap bases, drawn
            in advance and kept), or "overlapping" (no constraint; the forgetting penalty decides).
    """

    rank: int
    mode: Literal["orthogonal", "spread", "overlapping"] = "orthogonal"


def plan_layers(
    widths: Mapping[str, int], rank: int, concepts: int | None, policy: CapacityPolicy, orthogonal: bool = True
) -> dict[str, LayerPlan]:
    """Decide rank and mode of every layer from the widths alone.

    Args:
        widths: layer name -> input width n.
        rank: rank r that is asked for.
        concepts: number of concepts T to come; None if unknown (then only a single basis is checked).
        policy: "error" raises; "shrink" lowers the rank of narrow layers to n // T; "spread" gives up exact
            orthogonality there for the least overlap; "penalise" leaves the overlap to the penalty.
        orthogonal: False for methods that do not ask for orthogonal bases: nothing can overflow then.

    Raises:
        CapacityError: the bases do not fit under "error", or not even one direction each under "shrink".
    """
    return {name: _plan_layer(name, width, rank, concepts or 1, policy, orthogonal) for name, width in widths.items()}


def _plan_layer(name: str, width: int, rank: int, concepts: int, policy: CapacityPolicy, orthogonal: bool) -> LayerPlan:
    if rank > width:
        raise CapacityError(f"layer {name}: rank {rank} is larger than its width {width}; use rank <= {width}")
    if not orthogonal:
        return LayerPlan(rank, "overlapping")
    if rank * concepts <= width:
        return LayerPlan(rank)
    if policy == "shrink":
        if width < concepts:
            raise CapacityError(
                f"layer {name}: {concepts} concepts do not fit into width {width} even at rank 1; "
                "use capacity='spread' or 'penalise'"
            )
        return LayerPlan(width // concepts)
    if policy == "spread":
        return LayerPlan(rank, "spread")
    if policy == "penalise":
        return LayerPlan(rank, "overlapping")
    raise CapacityError(
        f"layer {name}: {concepts} concepts of rank {rank} need {rank * concepts} directions, its width is {width} "
        f"(room for {capacity(width, rank)}); use rank <= {width // concepts or 'none'}, "
        "or capacity='shrink', 'spread' or 'penalise'"
    )


def check_room(plan: Mapping[str, LayerPlan], widths: Mapping[str, int], learnt: int, config: SeqLoRAConfig) -> None:
    """Refuse a concept for which the plan has no basis left, before it is trained.

    Args:
        plan: what was decided for each layer.
        widths: layer name -> input width n.
        learnt: number of concepts that have their bases already.
        config: for the number of planned concepts.

    Raises:
        CapacityError: a layer is full, or a least-overlap arrangement has given out all its bases.
    """
    for name, entry in plan.items():
        if entry.mode == "orthogonal" and (learnt + 1) * entry.rank > widths[name]:
            raise CapacityError(
                f"layer {name}: {learnt} concepts of rank {entry.rank} fill its width {widths[name]}; plan more with "
                "planned_concepts and capacity='shrink', 'spread' or 'penalise', or use a lower rank"
            )
        if entry.mode == "spread" and learnt >= (config.planned_concepts or 0):
            raise CapacityError(
                f"layer {name}: bases were spread for planned_concepts={config.planned_concepts}, and all are used; "
                "plan for more before training"
            )

"""What is run: three suites, each a union of cartesian products of cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from bench.api import Cell
from bench.methods import load_method, methods
from bench.methods.images.ablations import CURVE
from bench.options import split_name
from bench.registry import Registry
from bench.tasks import load_task
from seqlora.errors import BadInputError

ALL = ("all",)  # every method of the task's family


@dataclass(frozen=True)
class CellSet:
    """The product of its fields. Methods are innermost, so that neighbouring cells share their data."""

    task: str
    methods: tuple[str, ...] = ALL
    n_concepts: tuple[int, ...] = (4,)
    orders: tuple[int, ...] = (0,)
    seeds: tuple[int, ...] = (0,)

    def cells(self) -> Iterator[Cell]:
        """All cells, with canonical names of tasks and methods.

        Raises:
            BadInputError: an unknown task or method, or more concepts than the task has.
        """
        task = load_task(self.task)
        names = tuple(methods(task.family)) if self.methods == ALL else self.methods
        names = tuple(load_method(task.family, name)[0] for name in names)
        if max(self.n_concepts) > task.max_concepts():
            raise BadInputError(f"task {task.name} has {task.max_concepts()} concepts, not {max(self.n_concepts)}")
        for seed, order, count, name in product(self.seeds, self.orders, self.n_concepts, names):
            yield Cell(task.name, name, count, order, seed)


@dataclass(frozen=True)
class Suite:
    """A named union of cell sets."""

    name: str
    help: str
    sets: tuple[CellSet, ...]

    def cells(self) -> list[Cell]:
        """Cells of all sets, each once, in order."""
        return list(dict.fromkeys(cell for cells in self.sets for cell in cells.cells()))

    def restricted(
        self,
        tasks: Sequence[str] = (),
        methods: Sequence[str] = (),
        n_concepts: Sequence[int] = (),
        seeds: Sequence[int] = (),
    ) -> Suite:
        """The same suite with axes replaced; a task that is not in it runs on the axes given, or on the defaults."""
        chosen = [s for s in self.sets if not tasks or _is_among(s.task, tasks)]
        strangers = [task for task in tasks if not any(_is_among(s.task, [task]) for s in self.sets)]
        chosen += [CellSet(task, n_concepts=(min(4, load_task(task).max_concepts()),)) for task in strangers]
        given = {"methods": tuple(methods), "n_concepts": tuple(n_concepts), "seeds": tuple(seeds)}
        changes = {axis: values for axis, values in given.items() if values}
        return replace(self, sets=tuple(replace(cells, **changes) for cells in chosen))  # type: ignore[arg-type]


def _is_among(task: str, chosen: Sequence[str]) -> bool:
    """Whether a set's task is one of those asked for, by its full name or by its kind."""
    return any(task == name or split_name(task)[0] == name for name in chosen)


SUITES: Registry[Suite] = Registry("suite")

# Image methods in the order of running: first those that train, the long ones before the short, then those that use
# what another has trained, so that no worker waits for a training of its neighbour. Of the fusions by LBFGS only the
# full suite runs one: the exact form takes a hundredth of the time.
IMAGE_METHODS = (
    "seqlora-penalty-layerwise",
    "seqlora-penalty",
    "penalty-only",
    "penalty-without-base",
    "penalty-output-scale",
    "seqlora",
    "orthogonal-adaptation",
    "ed-lora-average",
    "plain-sum",
    "alternating",
    "frozen-orthonormal",
    "frozen-random",
    "frozen-same",
    "token-only-layerwise",
    "token-only",
    "mix-of-show-exact",
    "fusion",
    "fusion-frozen",
    "plain-average",
    "plain-norm-matched",
    "orthogonal-adaptation-weight",
    "base",
)
PEOPLE = "portraits:steps=240,batch=4,prompts=4,sampler_steps=12,start_batches=24,layers=transformer"
EIGHT_PEOPLE = (*IMAGE_METHODS, *CURVE)
# With the UNet's convolutions as well: better for tuning people alone, and merged at less guidance; and dearer.
FINER_PEOPLE = "portraits:steps=240,batch=4,prompts=4,sampler_steps=12,guidance=2.0,start_batches=24,layers=convolution"
SIXTEEN_PEOPLE = (  # the method, its claim, and its rivals: four trainings, of which five seeds take most of the time
    "seqlora-penalty-kronecker",
    "seqlora",
    "mix-of-show-exact",
    "plain-sum",
    "fusion",
)
FINER_EIGHT = ("seqlora-penalty-layerwise", "frozen-orthonormal", *SIXTEEN_PEOPLE)
FOUR_PEOPLE = CellSet(
    "portraits:steps=160,batch=4,prompts=6,sampler_steps=12,scenes=1,layers=transformer", IMAGE_METHODS, n_concepts=(4,)
)
LEFT_OUT = (  # of the ci suite: controls of controls
    "frozen-same",
    "penalty-without-base",
    "penalty-output-scale",
    "orthogonal-adaptation-weight",
    "fusion-frozen",
)
FOUR_PEOPLE_QUICKLY = CellSet(
    "portraits:steps=60,batch=4,prompts=3,sampler_steps=8,scenes=1",
    tuple(name for name in IMAGE_METHODS if name not in LEFT_OUT),
    n_concepts=(4,),
)

# What is gated: cheap enough for 8 seeds and more in a few minutes on two cores.
GATED_PORTRAITS = "portraits:steps=30,images=4,references=4,prompts=3,sampler_steps=6"
GATED_LINEAR = ("plain-sum", "frozen-orthonormal", "seqlora", "seqlora-penalty")

SUITES.add(
    "smoke",
    Suite(
        "smoke",
        "seconds: every linear method once, to see that it runs",
        (CellSet("linear-synthetic", n_concepts=(2, 3)),),
    ),
)
SUITES.add(
    "ci",
    Suite(
        "ci",
        "a quarter of an hour: what is gated (8 seeds), the real layers, and four people in the embedded world",
        (
            CellSet("linear-synthetic", n_concepts=(4, 8), seeds=tuple(range(8))),
            CellSet("linear-synthetic:decay=2.0", n_concepts=(4,), seeds=tuple(range(8))),
            CellSet("linear-minilm", n_concepts=(7,)),
            FOUR_PEOPLE_QUICKLY,
        ),
    ),
)
SUITES.add(
    "gate",
    Suite(
        "gate",
        "minutes: what `compare` holds against the baseline, cheap and with many seeds",
        (
            CellSet("linear-synthetic", GATED_LINEAR, n_concepts=(4,), seeds=tuple(range(16))),
            CellSet("linear-trained", ("seqlora",), n_concepts=(3,), seeds=tuple(range(16))),
            CellSet(
                # Without the base model's moments, whose images take as long to draw as a concept takes here to learn.
                # SeqLoRA without penalty is gated on linear layers: here rounding alone moves it by twice its margin.
                GATED_PORTRAITS,
                ("plain-sum", "seqlora-penalty:base=False"),
                n_concepts=(2,),
                seeds=tuple(range(8)),
            ),
        ),
    ),
)
SUITES.add(
    "images",
    Suite(
        "images",
        "half an hour: the same people, more images, by every image method and control",
        (FOUR_PEOPLE,),
    ),
)
SUITES.add(
    "full",
    Suite(
        "full",
        "hours (6 on two cores with AVX-512, 13 without): spectra, angles, orders, targets, every number of concepts",
        (
            CellSet("linear-synthetic", n_concepts=(2, 4, 8, 16), orders=(0, 1), seeds=tuple(range(20))),
            *(
                CellSet(f"linear-synthetic:decay={decay},angle={angle}", n_concepts=(4, 8), seeds=tuple(range(20)))
                for decay in (0.5, 1.0, 1.5, 2.0)
                for angle in (0.0, 30.0, 90.0)
            ),
            CellSet("linear-minilm", n_concepts=(2, 4, 7), orders=(0, 1), seeds=tuple(range(5))),
            CellSet("linear-minilm:target=learned", n_concepts=(2, 4, 7), orders=(0, 1), seeds=tuple(range(5))),
            # Stage t of sixteen people is what t people would be: one cell gives every T up to 16.
            CellSet(FINER_PEOPLE, SIXTEEN_PEOPLE, n_concepts=(16,), seeds=tuple(range(5))),
            CellSet(FINER_PEOPLE, FINER_EIGHT, n_concepts=(8,)),
            CellSet(FINER_PEOPLE, ("seqlora-penalty-kronecker",), n_concepts=(32,)),
            CellSet(PEOPLE, EIGHT_PEOPLE, n_concepts=(8,)),
            CellSet(PEOPLE, ("mix-of-show",), n_concepts=(4,)),
            CellSet(PEOPLE, ("seqlora-penalty-layerwise",), n_concepts=(32,)),
        ),
    ),
)

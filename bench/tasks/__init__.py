"""What methods are compared on. A task's name may carry options: "linear-synthetic:decay=2,angle=30"."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

from bench.api import Task
from bench.options import split_name
from bench.registry import Registry

# name -> function of the text after the first colon ("" if there is none)
TASKS: Registry[Callable[[str], Task]] = Registry("task")
TASKS.lazy("linear-synthetic", "bench.tasks.linear:synthetic")
TASKS.lazy("linear-minilm", "bench.tasks.linear:minilm")
TASKS.lazy("linear-trained", "bench.tasks.trained:trained")
TASKS.lazy("portraits", "bench.tasks.portraits:portraits")
TASKS.lazy("photos", "bench.tasks.photos:photos")

# Tasks whose names hold a digest of the user's models: kind -> function of (text after the colon, options) -> full name
ON_MODELS: Registry[Callable[[str, Mapping[str, str]], str]] = Registry("task on models")
ON_MODELS.lazy("photos", "bench.tasks.photos:planned")


@lru_cache(maxsize=8)
def load_task(name: str) -> Task:
    """The task called `name`, with its options; kept, because a task may hold weights.

    Raises:
        BadInputError: no such task, or options that it does not know.
    """
    kind, options = split_name(name)
    return TASKS[kind](options)


def on_models(name: str, options: Mapping[str, str]) -> str:
    """The full name of a task on the models that `options` name; most tasks do not depend on them.

    Raises:
        BadInputError: a model is not there.
    """
    kind, text = split_name(name)
    return ON_MODELS[kind](text, options) if kind in ON_MODELS else name

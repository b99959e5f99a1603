from __future__ import annotations

from tilewise.registry.families import FAMILIES
from tilewise.registry.family import Model, ModelFamily

_families: dict[str, ModelFamily] = {family.name: family for family in FAMILIES}


def register(family: ModelFamily) -> None:
    """Add a family to this process's registry: its models are then trained and served as all others are.

    Raises:
        ValueError: the name of the family or of one of its models is taken.

    """
    duplicates = {*_families, *_models()} & {family.name, *(model.name for model in family.models)}
    if duplicates:
        raise ValueError(f"already registered: {', '.join(sorted(duplicates))}")
    _families[family.name] = family


def unregister(name: str) -> None:
    """Take the family of that name out again."""
    del _families[name]


def families() -> tuple[ModelFamily, ...]:
    """All families."""
    return tuple(_families.values())


def model_names(task: str = "detection") -> tuple[str, ...]:
    """The names of the models that can be trained for a task, family by family."""
    return tuple(name for name, (family, _) in _models().items() if task in family.tasks)


def family_of(name: str) -> ModelFamily:
    """The family of the model of that name; KeyError where there is no such model."""
    return _models()[name][0]


def find_model(name: str) -> Model:
    """The model of that name; KeyError where there is none."""
    return _models()[name][1]


def _models() -> dict[str, tuple[ModelFamily, Model]]:
    return {model.name: (family, model) for family in _families.values() for model in family.models}

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from fnmatch import fnmatch

import pytest
from tilewise.hyperparameters import parse_hyperparameters
from tilewise.hyperparameters.table import ROWS
from tilewise.registry import (
    SOURCES,
    Model,
    ModelFamily,
    families,
    family_of,
    find_model,
    model_names,
    register,
    unregister,
)

NAMES = [family.name for family in families()]


@pytest.mark.parametrize("name", NAMES)
def test_family__is_consistent(name: str) -> None:
    family = next(each for each in families() if each.name == name)
    for model in family.models:
        assert family_of(model.name) is family and find_model(model.name) is model
        assert fnmatch(model.name, family.pattern)
        assert all(weights.source in SOURCES for weights in model.published)
        assert all(re.fullmatch("[0-9a-f]{8}|[0-9a-f]{64}", weights.pin) for weights in model.published)
        assert [least for least, _ in model.smallest_views] == sorted({0, *dict(model.smallest_views)})
    others = [each.pattern for each in families() if each is not family]
    assert not [model.name for model in family.models if any(fnmatch(model.name, each) for each in others)]
    defaults = {**family.defaults, **family.models[0].recipe}
    assert defaults.keys() <= ROWS.keys()
    hp = parse_hyperparameters({"model_name": family.models[0].name})
    assert {name: getattr(hp, name) for name in defaults} == defaults
    if family.stride_4_level:
        assert all(model.smallest_object > 24 for model in family.models)


def test_smallest_view__is_that_of_the_layout_for_a_nominal_size() -> None:
    assert [find_model("ssd_vgg16").smallest_view(side) for side in (300, 511, 512)] == [288, 288, 480]
    assert [find_model("ssd_resnet50").smallest_view(side) for side in (300, 640)] == [288, 32]
    assert (
        find_model("yolox_s").smallest_view(640) == find_model("fcos_resnet50_fpn").smallest_view(600) == 32
    )


def test_register__refuses_names_that_are_taken() -> None:
    family = families()[0]
    for taken in (
        replace(family, models=(Model("other"),)),
        replace(family, name="other"),
        replace(family, name="yolox_s", models=(Model("other"),)),
    ):
        with pytest.raises(ValueError, match="already registered: "):
            register(taken)
    assert [each.name for each in families()] == NAMES


def test_register__a_family_of_another_task_is_not_for_detection() -> None:
    family = ModelFamily(
        name="sorter",
        pattern="sorter_*",
        models=(Model("sorter_1"),),
        builder="nowhere:build",
        scaling="square",
        classification_losses=frozenset(),
        tasks=("sorting",),
    )
    register(family)
    try:
        assert "sorter_1" not in model_names() and model_names("sorting") == ("sorter_1",)
    finally:
        unregister("sorter")
    assert model_names("sorting") == ()


def test_import__needs_no_other_package() -> None:
    code = "import sys; sys.path.append('container'); import tilewise.registry"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)

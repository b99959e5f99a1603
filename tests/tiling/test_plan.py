from __future__ import annotations

import math
from dataclasses import replace

from tilewise.tiling.plan import plan_views
from tilewise.tiling.spec import TileOptions, Tiling
from tilewise.views.view import ANY_SIZE, Scaling

SCALING = Scaling(square=100)


def test_plan_views__beside_tiles_the_whole_image_is_for_large_objects() -> None:
    for tiling in (Tiling("grid", grid=(2, 2), whole_from=50), Tiling("fixed", tile_size=200, whole_from=50)):
        training = plan_views(tiling, 400, 300, scaling=SCALING, training=True)
        answering = plan_views(tiling, 400, 300, scaling=SCALING)
        assert training[0].window == answering[0].window == (0, 0, 400, 300)
        assert training[0].object_sizes == (50, math.inf)
        assert answering[0].object_sizes == (40, math.inf)
        assert training[1:] == answering[1:]
        assert {view.object_sizes for view in answering[1:]} == {ANY_SIZE}


def test_plan_views__without_a_limit_for_all() -> None:
    views = plan_views(Tiling("grid", grid=(2, 2)), 400, 300, scaling=SCALING)
    assert {view.object_sizes for view in views} == {ANY_SIZE}


def test_tiling__of_an_older_model_has_no_limit() -> None:
    content = Tiling("grid", grid=(3, 2), whole_from=50).to_json()
    assert Tiling.from_json(content) == Tiling("grid", grid=(3, 2), whole_from=50)
    del content["whole_from"]
    assert Tiling.from_json(content) == Tiling("grid", grid=(3, 2))


def test_tiling__says_what_the_whole_image_is_for() -> None:
    assert str(Tiling("grid", grid=(3, 2), whole_from=50)).startswith(
        "the whole image for objects from 50 px on and 3x2 tiles"
    )
    assert str(Tiling("grid", grid=(3, 2))).startswith("the whole image and 3x2 tiles")


def test_plan_views__mirrored_ones_follow_their_views_but_not_in_training() -> None:
    plain = Tiling("grid", grid=(2, 1), whole_from=50)
    tiling = TileOptions(mirror=True).change(plain)
    views = plan_views(tiling, 400, 300, scaling=SCALING)
    assert views[::2] == plan_views(plain, 400, 300, scaling=SCALING)
    assert views[1::2] == [replace(view, mirrored=True) for view in views[::2]]
    training = plan_views(plain, 400, 300, scaling=SCALING, training=True)
    assert plan_views(tiling, 400, 300, scaling=SCALING, training=True) == training
    assert TileOptions(mirror=False).change(tiling) == plain
    assert str(tiling).endswith("merged by fragment at IoU 0.25, each view also mirrored")
    assert [view.mirrored for view in plan_views(Tiling(mirror=True), 9, 9, scaling=SCALING)] == [False, True]

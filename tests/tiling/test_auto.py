from __future__ import annotations

import numpy as np
import pytest
from tilewise.tiling.auto import MOST_VIEWS, GridChoice, ObjectSizes, choose_fixed, choose_grid
from tilewise.views.view import Scaling


def objects(size: tuple[int, int], *sides: tuple[float, float], images: int = 3) -> ObjectSizes:
    return ObjectSizes(
        image_sizes=np.array([size] * images),
        sides=np.array(sides, np.float64).reshape(-1, 2),
        image_of=np.zeros(len(sides), np.int64),
    )


def choose(size: tuple[int, int], side: float, scaling: Scaling, resolved: float = 32) -> GridChoice:
    return choose_grid(objects(size, *[(side, side)] * 20), scaling, resolved)


def test_auto__none_where_the_whole_image_shows_enough() -> None:
    choice = choose((640, 480), 64, Scaling(square=640))
    assert choice.grid is None
    assert "measure 74 px or more in a view of the whole image" in choice.reason
    assert choose_grid(objects((640, 480)), Scaling(square=320), 32).grid is None


def test_auto__the_cheapest_that_resolves_three_quarters() -> None:
    # 50 px of 1600 x 1200 are 10 x 13.3 = 11.5 px of 320 x 320; a zoom of 2.8 is needed
    choice = choose((1600, 1200), 50, Scaling(square=320))
    assert choice.grid == (4, 3)  # whose tiles are square: 3x4, as cheap, would stretch them
    assert "measure 12 px or more in a view of the whole image" in choice.reason
    assert "13 views an image" in choice.reason
    assert choice.overlap == 0.25


def test_auto__smaller_objects_get_more_tiles() -> None:
    costs = []
    for side in (100, 60, 40, 30):
        grid = choose((2000, 2000), side, Scaling(square=512)).grid or (0, 0)
        costs.append(grid[0] * grid[1])
    assert costs == sorted(costs) and len(set(costs)) == 4


def test_auto__follows_the_shape_of_the_image() -> None:
    scaling = Scaling(min_size=600, max_size=1000)
    wide = choose((4000, 1000), 40, scaling, 16).grid
    high = choose((1000, 4000), 40, scaling, 16).grid
    assert wide is not None and wide[0] > wide[1]
    assert high == wide[::-1]


def test_auto__does_the_most_it_may_where_objects_are_tiny() -> None:
    choice = choose((8000, 8000), 10, Scaling(square=512))
    assert choice.grid is not None
    assert choice.grid[0] * choice.grid[1] + 1 <= MOST_VIEWS
    assert "the most that" in choice.reason


def test_auto__does_not_blow_pixels_up() -> None:
    """Objects of 6 px never become 32 px: beyond twice its size a pixel shows nothing new."""
    choice = choose((400, 400), 6, Scaling(square=400))
    assert choice.grid is not None
    tile = 400 / (choice.overlap + (1 - choice.overlap) * max(choice.grid))
    assert 400 / tile <= 2


def test_auto__takes_the_overlap_that_is_given() -> None:
    some = objects((1600, 1200), *[(46.0, 46.0)] * 20)
    assert choose_grid(some, Scaling(square=320), 32, overlap=0.4).overlap == 0.4


@pytest.mark.parametrize("long", [20.0, 80.0])
def test_auto__overlap_holds_the_objects(long: float) -> None:
    some = objects((1600, 1600), *[(long, 10.0)] * 20)
    choice = choose_grid(some, Scaling(square=512), 24)
    assert choice.grid is not None
    tile = 1600 / (choice.overlap + (1 - choice.overlap) * max(choice.grid))
    assert choice.overlap * tile >= long and choice.overlap >= 0.25


def test_auto__images_of_several_sizes_count_by_their_objects() -> None:
    mixed = ObjectSizes(
        image_sizes=np.array([[500, 500], [4000, 4000], [4000, 4000]]),
        sides=np.full((40, 2), 40.0),
        image_of=np.array([1] * 38 + [0] * 2),
    )
    choice = choose_grid(mixed, Scaling(square=512), 24)
    assert choice.grid is not None and choice.grid[0] * choice.grid[1] > 9


@pytest.mark.parametrize(
    "growth, fixed", [(0.0, True), (0.4, True), (0.6, False), (1.0, False), (-1.0, True)]
)
def test_auto__tiles_are_fixed_unless_the_objects_grow_with_their_images(growth: float, fixed: bool) -> None:
    rng = np.random.default_rng(0)
    sides = np.array([800, 1200, 2400])
    image_of = np.repeat(np.arange(3), 200)
    sizes = 30 * (sides[image_of] / 1200) ** growth * rng.lognormal(0, 0.3, len(image_of))
    mixed = ObjectSizes(np.stack([sides, sides], axis=1), np.stack([sizes, sizes], axis=1), image_of)
    choice = choose_fixed(mixed, Scaling(square=320), 24, overlap=0.25)
    assert (choice is not None) == fixed
    said = "the images' sizes differ by a factor of 2.5, and their objects' sizes with them" in (
        choose_grid(mixed, Scaling(square=320), 24).reason
    )
    assert said != fixed


@pytest.mark.parametrize(
    ("image", "side", "size", "views"),
    [
        ((9000, 9000), 20, 400, "901.0 views"),  # 16 px of a view; 25 views would show 3 px
        ((100_000, 100_000), 100, 2000, "4490.0 views"),
        ((40_000, 600), 20, 400, "267.0 views"),  # so long that the tiles of a grid would be stretched
        ((9000, 9000), 5, 160, "5626.0 views"),  # enlarged twice, no more
        ((1500, 1500), 20, None, ""),  # a grid shows 18 px
        ((600, 600), 5, None, ""),  # a grid shows as much as there is to see
        ((9000, 9000), 2000, None, ""),
    ],
)
def test_auto__scenes_have_as_many_tiles_as_it_takes(
    image: tuple[int, int], side: float, size: int | None, views: str
) -> None:
    choice = choose_fixed(objects(image, *[(side, side)] * 20), Scaling(square=320), 32, overlap=0.25)
    assert (choice.size if choice else None) == size
    assert choice is None or views in choice.reason


def test_auto__scenes_of_different_sizes_have_tiles_no_larger_than_a_model_can_learn_from() -> None:
    sizes, sides = np.array([[4000, 4000], [9000, 9000]] * 5), np.full((40, 2), 20.0)
    scenes = ObjectSizes(sizes, sides, np.arange(40) % 10)
    choice = choose_fixed(scenes, Scaling(square=320), 32, overlap=0.25)
    assert choice is not None and choice.size == 400
    assert "the images' sizes differ by a factor of 2.2" in choice.reason


def test_auto__images_of_one_size_have_no_growth() -> None:
    assert "differ" not in choose((1600, 1200), 50, Scaling(square=320)).reason

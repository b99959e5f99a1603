from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from tilewise.views import view as view_module
from tilewise.views.view import FILL, Scaling, View, objects_shown, views_with_objects, whole_image
from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms.v2 import functional as F


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(seed)).to(
        torch.uint8
    )


coordinates = st.integers(-3000, 9000)
sides = st.integers(1, 5000)
sizes = st.integers(1, 2000)


@st.composite
def views(draw: st.DrawFn) -> View:
    x0, y0 = draw(coordinates), draw(coordinates)
    return View((x0, y0, x0 + draw(sides), y0 + draw(sides)), (draw(sizes), draw(sizes)))


@st.composite
def small_windows(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """Inside, across every border of, and beyond an image of 24 x 16 pixels."""
    x0, y0 = draw(st.integers(-60, 60)), draw(st.integers(-60, 60))
    return x0, y0, x0 + draw(st.integers(1, 90)), y0 + draw(st.integers(1, 90))


@settings(max_examples=200, deadline=None)
@given(views(), st.integers(0, 2**32))
def test_boxes__round_trip(view: View, seed: int) -> None:
    boxes = np.random.default_rng(seed).random((8, 4)) * 9000 - 1000
    assert np.allclose(view.boxes_to_image(view.boxes_from_image(boxes)), boxes, rtol=0, atol=1e-6)
    assert np.allclose(view.boxes_from_image(view.boxes_to_image(boxes)), boxes, rtol=1e-6, atol=1e-6)
    single = boxes.astype(np.float32)
    again = view.boxes_to_image(view.boxes_from_image(single))
    assert again.dtype == np.float32
    assert np.allclose(again, single, rtol=0, atol=0.02)


@settings(max_examples=100, deadline=None)
@given(views())
def test_boxes__window_becomes_the_whole_view(view: View) -> None:
    window = np.array([view.window], np.float32)
    whole = np.array([[0, 0, *view.size]], np.float32)
    assert np.allclose(view.boxes_from_image(window), whole, atol=1e-2)
    assert np.allclose(view.boxes_to_image(whole), window, atol=1e-2)
    assert view.scale == pytest.approx(
        (view.size[0] / (view.window[2] - view.window[0]), view.size[1] / (view.window[3] - view.window[1]))
    )


def test_boxes__golden() -> None:
    view = View((100, 50, 300, 150), (400, 100))
    boxes = np.array([[100, 50, 300, 150], [150, 60, 160, 90], [90, 40, 110, 60]], np.float32)
    wanted = np.array([[0, 0, 400, 100], [100, 10, 120, 40], [-20, -10, 20, 10]], np.float32)
    assert np.array_equal(view.boxes_from_image(boxes), wanted)
    assert np.array_equal(view.boxes_to_image(wanted), boxes)


@pytest.mark.parametrize("view", [View((0, 0, 9, 9), (3, 3)), View((-5, 2, 9, 11), (640, 640))])
def test_boxes__none(view: View) -> None:
    empty = np.zeros((0, 4), np.float32)
    assert view.boxes_from_image(empty).shape == view.boxes_to_image(empty).shape == (0, 4)


@settings(max_examples=300, deadline=None)
@given(small_windows())
def test_pixels__window_at_its_own_size(window: tuple[int, int, int, int]) -> None:
    """Pixels of the image where there is one, FILL elsewhere."""
    height, width = 16, 24
    image = picture(height, width)
    x0, y0, x1, y1 = window
    pixels = View(window, (x1 - x0, y1 - y0)).pixels_from_image(image)
    assert pixels.shape == (3, y1 - y0, x1 - x0) and pixels.dtype == torch.uint8
    wanted = torch.tensor(FILL, dtype=torch.uint8).view(3, 1, 1).repeat(1, y1 - y0, x1 - x0)
    for y in range(max(y0, 0), min(y1, height)):
        left, right = max(x0, 0), min(x1, width)
        if left < right:
            wanted[:, y - y0, left - x0 : right - x0] = image[:, y, left:right]
    assert torch.equal(pixels, wanted)


@settings(max_examples=100, deadline=None)
@given(small_windows(), st.integers(2, 50), st.integers(2, 50))
def test_pixels__scaled_to_the_size(window: tuple[int, int, int, int], width: int, height: int) -> None:
    colour = torch.tensor(FILL, dtype=torch.uint8).view(3, 1, 1).expand(3, 16, 24)
    pixels = View(window, (width, height)).pixels_from_image(colour)
    assert pixels.shape == (3, height, width)
    assert (pixels.int() - torch.tensor(FILL).view(3, 1, 1)).abs().max() <= 1


@settings(max_examples=50, deadline=None)
@given(small_windows(), st.integers(2, 50), st.integers(2, 50), st.booleans())
def test_pixels__scaled_after_what_is_outside_is_filled(
    window: tuple[int, int, int, int], width: int, height: int, colours_last: bool
) -> None:
    image = picture(16, 24)
    if colours_last:
        image = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    x0, y0, x1, y1 = window
    unscaled = View(window, (x1 - x0, y1 - y0)).pixels_from_image(image)
    pixels = View(window, (width, height)).pixels_from_image(image)
    assert (pixels.int() - F.resize(unscaled.contiguous(), [height, width]).int()).abs().max() <= 1


@pytest.mark.parametrize(
    "window",
    [
        (-30, 0, -6, 16),
        (24, 0, 48, 16),
        (0, -20, 24, -4),
        (0, 16, 24, 32),
        (-9, -9, -1, -1),
        (90, 90, 99, 99),
    ],
)
def test_pixels__wholly_beside_the_image(window: tuple[int, int, int, int]) -> None:
    x0, y0, x1, y1 = window
    pixels = View(window, (x1 - x0, y1 - y0)).pixels_from_image(picture(16, 24))
    assert (pixels == torch.tensor(FILL).view(3, 1, 1)).all()


def test_pixels__land_where_boxes_say() -> None:
    image = torch.zeros(3, 100, 200, dtype=torch.uint8)
    image[:, 40:60, 120:160] = 255
    view = View((80, 20, 180, 120), (300, 200))
    pixels = view.pixels_from_image(image)
    x0, y0, x1, y1 = view.boxes_from_image(np.array([[120, 40, 160, 60]], np.float32))[0].astype(int).tolist()
    assert (x0, y0, x1, y1) == (120, 40, 240, 80)
    assert (pixels[:, y0 + 2 : y1 - 2, x0 + 3 : x1 - 3] == 255).all()
    outside = pixels.clone()[:, :158]  # below it is FILL
    outside[:, y0 - 2 : y1 + 2, x0 - 3 : x1 + 3] = 0
    assert (outside == 0).all()


def test_pixels__image_is_not_changed() -> None:
    image = picture(16, 24)
    before = image.clone()
    View((-3, -3, 10, 10), (13, 13)).pixels_from_image(image)
    View((0, 0, 24, 16), (12, 8)).pixels_from_image(image)
    assert torch.equal(image, before)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"min_size": 800},
        {"max_size": 800},
        {"square": 3, "min_size": 1, "max_size": 2},
        {"square": 3, "max_size": 2},
    ],
)
def test_scaling__one_way_only(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="either square, or min_size and max_size"):
        Scaling(**options)


@given(sides, sides)
def test_size_of__square(width: int, height: int) -> None:
    assert Scaling(square=512).size_of(width, height) == (512, 512)


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 3000), st.integers(8, 3000), st.integers(16, 128), st.integers(16, 256))
def test_size_of__as_torchvision(width: int, height: int, min_size: int, max_size: int) -> None:
    """To a pixel: torchvision cuts the fraction off, and its scale is a float32; here the size is rounded."""
    assume(max_size >= min_size and max(width, height) < 8 * min(width, height))
    transform = GeneralizedRCNNTransform(min_size, max_size, [0.0] * 3, [1.0] * 3)
    resized, _ = transform.resize(torch.zeros(3, height, width))
    ours = Scaling(min_size=min_size, max_size=max_size).size_of(width, height)
    assert abs(ours[0] - resized.shape[2]) <= 1 and abs(ours[1] - resized.shape[1]) <= 1


@given(sides, sides, st.integers(1, 1000), st.integers(0, 1000))
def test_size_of__limits(width: int, height: int, min_size: int, more: int) -> None:
    scaled = Scaling(min_size=min_size, max_size=min_size + more).size_of(width, height)
    assert 1 <= min(scaled) <= min_size and max(scaled) <= min_size + more
    assert min(scaled) == min_size or max(scaled) == min_size + more


@pytest.mark.parametrize(
    ("size", "scaled"), [((1000, 500), (1600, 800)), ((4000, 1000), (1333, 333)), ((800, 1333), (800, 1333))]
)
def test_whole_image__one_view(size: tuple[int, int], scaled: tuple[int, int]) -> None:
    scaling = Scaling(min_size=800, max_size=1600 if size == (1000, 500) else 1333)
    assert whole_image(*size, scaling) == [View((0, 0, *size), scaled)]


@pytest.mark.parametrize(
    ("window", "size", "reduction"),
    [
        ((0, 0, 640, 480), (320, 320), 1),
        ((0, 0, 640, 640), (320, 320), 2),
        ((0, 0, 1636, 1088), (320, 320), 2),
        ((0, 0, 4908, 3264), (320, 320), 8),
        ((0, 0, 99, 99), (100, 10), 1),
        ((0, 0, 50_000, 50_000), (300, 300), 8),
    ],
)
def test_reduction__leaves_the_image_at_least_as_fine(
    window: tuple[int, int, int, int], size: tuple[int, int], reduction: int
) -> None:
    assert View(window, size).reduction == reduction


@settings(max_examples=100, deadline=None)
@given(views(), st.sampled_from([1, 2, 4, 8]))
def test_snapped__grows_to_the_next_multiples(view: View, factor: int) -> None:
    pairs = list(zip(view.window, view.snapped(factor).window, strict=True))
    assert all(after % factor == 0 and abs(after - before) < factor for before, after in pairs)
    assert all(after <= before for before, after in pairs[:2])
    assert all(after >= before for before, after in pairs[2:])


@pytest.mark.parametrize("window", [(0, 0, 400, 240), (37, 20, 301, 230), (-100, -60, 420, 300)])
def test_pixels__of_a_reduced_image_show_the_same(window: tuple[int, int, int, int]) -> None:
    """Smooth content looks alike, and stands in the same place to a fraction of a pixel of the view."""
    x, y = torch.arange(400) / 400, torch.arange(240) / 240
    waves = 127 + 100 * torch.sin(12 * x)[None, :] * torch.cos(9 * y)[:, None]
    image = waves.round().to(torch.uint8).expand(3, -1, -1)
    reduced = torch.nn.functional.avg_pool2d(image.float(), 4).round().to(torch.uint8)
    view = View(window, (60, 40)).snapped(4)
    difference = (view.pixels_from_image(reduced, 4).float() - view.pixels_from_image(image).float()).abs()
    assert difference.mean() < 1.5


@settings(max_examples=30, deadline=None)
@given(small_windows(), st.integers(2, 40), st.integers(2, 40), st.integers(1, 4000))
def test_pixels__large_windows_scaled_in_bands_are_the_same(
    window: tuple[int, int, int, int], width: int, height: int, band: int
) -> None:
    image = picture(16, 24)
    view = View(window, (width, height))
    at_once = view.pixels_from_image(image)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tilewise.views.tensors.BAND_BYTES", band)
        in_bands = view.pixels_from_image(image)
    assert (in_bands.int() - at_once.int()).abs().max() <= 1


@settings(max_examples=60, deadline=None)
@given(small_windows(), st.integers(2, 40), st.integers(2, 40))
def test_pixels__of_an_array_are_those_of_a_tensor(
    window: tuple[int, int, int, int], width: int, height: int
) -> None:
    """What serves without PyTorch sees what training sees: both scale as Pillow does."""
    image = picture(16, 24)
    view = View(window, (width, height))
    expected, array = view.pixels_from_image(image).numpy(), image.numpy()
    pixels = view.pixels_from_image(array)
    assert pixels.dtype == np.uint8 and pixels.shape == expected.shape == (3, height, width)
    assert np.abs(pixels.astype(int) - expected).max() <= 1
    assert not np.shares_memory(pixels, array)


def test_pixels__of_an_array_are_pillows() -> None:
    photograph = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))
    photograph = photograph.resize((400, 300))
    for size in ((320, 320), (100, 77), (640, 640)):
        pixels = View((0, 0, 400, 300), size).pixels_from_image(np.asarray(photograph).transpose(2, 0, 1))
        expected = np.asarray(photograph.resize(size, Image.Resampling.BILINEAR))
        difference = np.abs(pixels.transpose(1, 2, 0).astype(int) - expected)
        assert difference.max() <= 1 and difference.mean() < 0.05


def test_pixels__have_memory_of_their_own() -> None:
    """A sample that is sent to another process must not take the image with it."""
    image = picture(100, 100)
    for view in (View((0, 0, 10, 10), (10, 10)), View((0, 0, 100, 100), (100, 100))):
        pixels = view.pixels_from_image(image)
        assert pixels.untyped_storage().nbytes() == pixels.numel()
        assert pixels.data_ptr() != image.data_ptr()


def test_answers_for__sizes_in_pixels_of_the_image() -> None:
    view = View((0, 0, 100, 100), (400, 400), object_sizes=(10, 20))
    boxes = np.array([[0, 0, 9, 9], [0, 0, 10, 10], [0, 0, 40, 5], [0, 0, 20, 20], [5, 5, 5, 90]], np.float32)
    assert view.answers_for(boxes).tolist() == [False, True, True, False, False]
    assert View((0, 0, 1, 1), (1, 1)).answers_for(boxes).all()


@pytest.mark.parametrize("window", [(0, 0, 4, 1_000_000), (-3, -100, 9, 1_500_000)])
@pytest.mark.parametrize("wide", [False, True])
def test_pixels_from_image__the_axis_that_shrinks_goes_first(
    window: tuple[int, int, int, int], wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 x 1,000,000 pixels are never 320 x 1,000,000 in between."""
    largest = 0
    resize = F.resize

    def watched(pixels: Tensor, size: list[int], **options: object) -> Tensor:
        nonlocal largest
        scaled: Tensor = resize(pixels, size, **options)
        largest = max(largest, scaled.numel())
        return scaled

    monkeypatch.setattr(F, "resize", watched)
    thin = torch.full((1_000_000, 4, 3), 200, dtype=torch.uint8).permute(2, 0, 1)
    if wide:
        thin, window = thin.transpose(1, 2), (window[1], window[0], window[3], window[2])
    scaled = View(window, (320, 320)).pixels_from_image(thin)
    assert scaled.shape == (3, 320, 320) and largest <= thin.numel()
    assert (scaled[:, 150, 150] == 200).all()


def test_pixels__mirrored() -> None:
    image = picture(40, 60)
    plain, mirrored = (View((10, -5, 50, 30), (33, 21), mirrored=each) for each in (False, True))
    shown = mirrored.pixels_from_image(image)
    assert torch.equal(shown, plain.pixels_from_image(image).flip(-1))
    array = mirrored.pixels_from_image(image.numpy())
    assert np.array_equal(array, plain.pixels_from_image(image.numpy())[:, :, ::-1])
    assert np.moveaxis(array, 0, 2).flags.c_contiguous


@settings(max_examples=100, deadline=None)
@given(
    st.lists(small_windows(), min_size=1, max_size=40),
    st.integers(0, 30),
    st.floats(0, 1),
    st.integers(0, 2**32),
)
def test_views_with_objects__of_a_scene_are_those_of_all_pairs(
    windows: list[tuple[int, int, int, int]], count: int, visibility: float, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    columns = [windows[number % 3][::2] for number in range(len(windows))]  # few, as in a grid
    planned = [
        View((left, y0, right, y1), (32, 32), (0, float(draw.choice([12, np.inf]))))
        for (left, right), (_, y0, _, y1) in zip(columns, windows, strict=True)
    ]
    corners = draw.integers(-60, 90, size=(count, 2))
    boxes = np.concatenate([corners, corners + draw.integers(1, 30, size=(count, 2))], axis=1).astype(
        np.float32
    )
    wanted = objects_shown(planned, boxes, visibility).any(axis=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(view_module, "PAIRS", 0)
        patch.setattr(view_module, "ROWS", 3)
        found = views_with_objects(planned, boxes, visibility)
    assert found.tolist() == wanted.tolist()


def test_views_with_objects__take_no_memory_of_views_times_boxes() -> None:
    scene = 30_000
    views = [
        View((x, y, x + 300, y + 300), (320, 320)) for y in range(0, scene, 300) for x in range(0, scene, 300)
    ]
    corners = np.random.default_rng(0).uniform(0, scene - 20, size=(10_000, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + 20], axis=1)
    tracemalloc.start()
    try:
        found = views_with_objects(views, boxes, 0.4)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 5000 < found.sum() < 10_000
    assert peak < 5e6  # all boxes in each view would be 1.6 GB

from __future__ import annotations

from tilewise.augment.colours import RandomPhotometricDistort
from tilewise.augment.flip import RandomHorizontalFlip
from tilewise.augment.transform import Transform
from tilewise.augment.window import RandomWindow
from tilewise.views.view import Scaling


def make_augmentations(scaling: Scaling, *, random_windows: bool = True) -> list[Transform]:
    """The transforms that a job trains with, in their order.

    Args:
        scaling: of views of whole images.
        random_windows: whether a view's window is varied; otherwise it is only mirrored and coloured.

    """
    windows: list[Transform] = [RandomWindow(scaling)] if random_windows else []
    return [*windows, RandomHorizontalFlip(), RandomPhotometricDistort()]

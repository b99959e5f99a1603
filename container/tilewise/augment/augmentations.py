from __future__ import annotations

from dataclasses import dataclass

from tilewise.augment.colours import RandomPhotometricDistort
from tilewise.augment.flip import RandomHorizontalFlip
from tilewise.augment.geometry import RandomAffine, RandomOrientation
from tilewise.augment.mixing import MixUp, Mosaic
from tilewise.augment.quality import RandomQuality
from tilewise.augment.resized_crop import RandomResizedCrop
from tilewise.augment.transform import Transform
from tilewise.augment.window import RandomWindow
from tilewise.views.view import Scaling


@dataclass(frozen=True)
class Augmentations:
    """What varies training views beside windows and mirroring; see the hyperparameters.

    Attributes:
        vertical_flip: whether half of the views are mirrored top to bottom.
        quarter_turns: whether views are turned by quarters.
        rotation: degrees, at most.
        shear: degrees, at most.
        degradation: the probability of blur, of noise and of JPEG.
        mosaic: its probability.
        mixup: its probability.
        colours: whether brightness, contrast, saturation and hue are changed.
        resized_crop: the side in pixels of the square that a part of an image is scaled to, in place of
            SSD's windows; None for these.

    """

    vertical_flip: bool = False
    quarter_turns: bool = False
    rotation: float = 0.0
    shear: float = 0.0
    degradation: float = 0.0
    mosaic: float = 0.0
    mixup: float = 0.0
    colours: bool = True
    resized_crop: int | None = None

    @property
    def mixes(self) -> bool:
        """Whether views are made of several."""
        return self.mosaic > 0 or self.mixup > 0


def make_augmentations(
    scaling: Scaling, *, random_windows: bool = True, more: Augmentations | None = None
) -> list[Transform]:
    """The transforms that a job trains with, in their order.

    Args:
        scaling: of views of whole images.
        random_windows: whether a view's window is varied; otherwise it is only mirrored and recoloured.
        more: what a job adds.

    """
    more = more or Augmentations()
    window = RandomResizedCrop(more.resized_crop) if more.resized_crop else RandomWindow(scaling)
    transforms: list[Transform] = [window] if random_windows else []
    if more.mosaic:
        transforms.append(Mosaic(more.mosaic))
    if more.mixup:
        transforms.append(MixUp(more.mixup))
    if more.rotation or more.shear:
        transforms.append(RandomAffine(more.rotation, more.shear))
    if more.vertical_flip or more.quarter_turns:
        transforms.append(RandomOrientation(more.vertical_flip, more.quarter_turns))
    transforms.append(RandomHorizontalFlip())
    if more.degradation:
        transforms.append(RandomQuality(more.degradation))
    if more.colours:
        transforms.append(RandomPhotometricDistort())
    return transforms

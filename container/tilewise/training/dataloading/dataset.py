"""A view of a record -> a training sample: decoded, cut out and augmented."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tilewise.arrays import Array, Int64
from tilewise.augment.copy_paste import CopyPaste, Pastes
from tilewise.augment.pasting import paste_objects
from tilewise.augment.transform import Draft, Transform
from tilewise.data.decoding.decode import DecodedImage, DecodeError, decode_reduced
from tilewise.data.records import Record, Records
from tilewise.targets import Targets
from tilewise.training.dataloading.image_cache import ImageCache
from tilewise.training.dataloading.pipe_sampler import PipeItem
from tilewise.training.dataloading.view_order import Copy, Item
from tilewise.views.rendering import AS_STORED, Rendering
from tilewise.views.sample import MIN_VISIBILITY, Sample, make_sample, with_image_sizes
from tilewise.views.view import Scaling, View, whole_image

KEPT_TARGETS = 500_000
"""The targets of copies are kept, so many in all: their next views show the same."""

PASTED_PIXELS = 1 << 24
"""Copies of images of so many pixels at most are kept as they are pasted; larger ones are pasted by views."""

KEPT_CHOICES = 10_000
"""Of so many images it is kept which objects may be pasted."""


@dataclass(frozen=True)
class _Shown:
    """A record as a training shows it.

    Attributes:
        record: with the targets of what is pasted, too.
        seed: of these.
        pastes: into it; None where nothing is.
        own: the targets without these.
        donor: the record that pasted objects come from; None for the image itself, or a bank.

    """

    record: Record
    seed: int = 0
    pastes: Pastes | None = None
    own: Targets[Array] | None = None
    donor: Record | None = None


class TrainingDataset(Dataset[Sample | tuple[str, str]]):
    """One random view of a record; an item is ``(key, reason)`` where the image cannot be decoded.

    Records are asked for by their index, or given as they are where they came through a pipe.

    Args:
        records: of the training data.
        scaling: of views of whole images.
        augmentations: what varies the samples of a batch, in this order.
        min_visibility: see :func:`make_sample`.
        cache_bytes: decoded images to keep.
        rendering: of the images.
        copy_paste: what copies of images show beside their own objects; None where there are none.

    """

    def __init__(
        self,
        records: Records,
        scaling: Scaling,
        augmentations: Sequence[Transform] = (),
        *,
        min_visibility: float = MIN_VISIBILITY,
        cache_bytes: int = 0,
        rendering: Rendering = AS_STORED,
        copy_paste: CopyPaste | None = None,
    ):
        self.records = records
        self.scaling = scaling
        self.augmentations = augmentations
        self.min_visibility = min_visibility
        self.images = ImageCache(cache_bytes)
        self.rendering = rendering
        self.copy_paste = copy_paste
        self._copies: dict[int, _Shown] = {}  # by their seeds, the last ones at the end
        self._kept_targets = 0  # of these
        self._pasteable: dict[int, Int64] = {}  # by their indices, of images that have been copied

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, item: Item | PipeItem) -> Sample | tuple[str, str]:
        return self.__getitems__([item])[0]

    def __getitems__(self, items: Sequence[Item | PipeItem]) -> list[Sample | tuple[str, str]]:
        """Those of a batch: each kind of work for all of them before the next, an eighth faster so."""
        rngs = [np.random.default_rng(max(seed, ~seed)) for _, _, seed in items]
        plain = any(seed < 0 for _, _, seed in items)
        shown = [self._shown(image) for image, _, _ in items]
        drafts: Sequence[Draft] = [
            Draft(each.record.width, each.record.height, each.record.targets, view)
            for each, (_, view, _) in zip(shown, items, strict=True)
        ]
        for augmentation in self.augmentations:
            drafts = augmentation.change_drafts(drafts, rngs)
        results = [self._make(each, draft.view) for each, draft in zip(shown, drafts, strict=True)]
        return self._augment(results, rngs, plain=plain)

    def _shown(self, image: int | Record | Copy) -> _Shown:
        if not isinstance(image, Copy):
            return _Shown(self._record(image))
        if isinstance(image.image, Record):  # of a pipe: it does not come again
            return self._paste_targets(image)
        shown = self._copies.pop(image.seed, None)
        if shown is None:
            shown = self._paste_targets(image)
            self._kept_targets += len(shown.record.targets)
        self._copies[image.seed] = shown
        while self._kept_targets > KEPT_TARGETS and len(self._copies) > 1:
            self._kept_targets -= len(self._copies.pop(next(iter(self._copies))).record.targets)
        return shown

    def _paste_targets(self, image: Copy) -> _Shown:
        assert self.copy_paste is not None
        record = self._record(image.image)
        donor = image.donor.targets if image.donor else None
        plan = self.copy_paste.plan(
            record.targets,
            record.width,
            record.height,
            seed=image.seed,
            donor=donor,
            own=self._pasteable_of(image.image, record),
        )
        if plan is None:
            return _Shown(record)
        copied = replace(record, targets=plan.targets)
        return _Shown(copied, image.seed, plan.pastes, record.targets, image.donor)

    def _pasteable_of(self, image: int | Record, record: Record) -> Int64:
        """The numbers of a record's objects that may be pasted: the same in each epoch."""
        assert self.copy_paste is not None
        if isinstance(image, Record):  # of a pipe: it does not come again
            return self.copy_paste.pasteable_of(record.targets)
        if image not in self._pasteable:
            while len(self._pasteable) >= KEPT_CHOICES:
                del self._pasteable[next(iter(self._pasteable))]
            self._pasteable[image] = self.copy_paste.pasteable_of(record.targets)
        return self._pasteable[image]

    def _record(self, image: int | Record) -> Record:
        return image if isinstance(image, Record) else self.records[image]

    def _augment(
        self,
        results: Sequence[Sample | tuple[str, str]],
        rngs: Sequence[np.random.Generator],
        *,
        plain: bool,
    ) -> list[Sample | tuple[str, str]]:
        samples: Sequence[Sample] = [each for each in results if isinstance(each, Sample)]
        own = [rng for each, rng in zip(results, rngs, strict=True) if isinstance(each, Sample)]
        for augmentation in self.augmentations:
            if not (plain and augmentation.mixes):
                samples = augmentation.change_samples(samples, own)
        changed = iter(samples)
        return [next(changed) if isinstance(each, Sample) else each for each in results]

    def _make(self, shown: _Shown, view: View | None) -> Sample | tuple[str, str]:
        record = shown.record
        if view is None:
            (view,) = whole_image(record.width, record.height, self.scaling)
        # An image that other views need too is decoded whole, and kept.
        factor = 1 if self.images.capacity else view.reduction
        most = min(PASTED_PIXELS, self.images.capacity // 6)
        whole = shown.pastes is not None and record.width * record.height <= most
        try:
            image = self._pasted(shown) if whole else self._decoded(record, factor)
        except (DecodeError, OSError) as error:
            return record.key, str(error)
        pixels, factor = image.to(torch.as_tensor).seen_by(view)
        view = view.snapped(factor)
        targets = with_image_sizes(record.targets.near(view.window))
        sample = make_sample(pixels, targets, view, min_visibility=self.min_visibility, factor=factor)
        if shown.pastes is not None and not whole:
            try:
                self._paste(shown, image, sample.pixels, view)
            except (DecodeError, OSError) as error:
                return shown.donor.key if shown.donor else record.key, str(error)
        return sample

    def _decoded(self, record: Record, factor: int) -> DecodedImage:
        return self.images.get(record.key, lambda: decode_record(record, factor, self.rendering))

    def _pasted(self, shown: _Shown) -> DecodedImage:
        """All of an image with what is pasted into it, for all views of the copy."""

        def paste() -> DecodedImage:
            image = self._decoded(shown.record, 1)
            pixels = np.moveaxis(np.array(np.moveaxis(image.pixels, 0, 2), order="C"), 2, 0)
            all_of_it = View((0, 0, image.width, image.height), (image.width, image.height))
            self._paste(shown, image, torch.from_numpy(pixels), all_of_it)
            return replace(image, pixels=pixels)

        return self.images.get(f"{shown.record.key} {shown.seed}", paste)

    def _paste(self, shown: _Shown, image: DecodedImage, pixels: Tensor, view: View) -> None:
        assert self.copy_paste is not None and shown.own is not None and shown.pastes is not None
        bank, targets = self.copy_paste.bank, shown.own
        image_of: Callable[[int], DecodedImage] | None = None
        if shown.donor:
            donor = self._decoded(shown.donor, 1)
            targets, image_of = shown.donor.targets, lambda number: donor
        elif bank:
            targets, image_of = bank.targets, bank.image
        paste_objects(pixels, view, shown.pastes, objects=targets, image=image, image_of=image_of)


def decode_record(record: Record, factor: int, rendering: Rendering) -> DecodedImage:
    """A record's image, reduced by ``factor`` if that is cheap.

    Raises:
        DecodeError: it is damaged, or another one than when the job began.

    """
    picture = decode_reduced(record.source, lambda width, height: factor, rendering=rendering)
    if (picture.width, picture.height) != (record.width, record.height):
        raise DecodeError(
            f"it has {picture.width} x {picture.height} pixels now: it was changed during the job"
        )
    return picture

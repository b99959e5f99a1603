"""Which of the data a job uses: some classes, some images, one of several labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from tilewise.arrays import Array, Int64
from tilewise.data.annotations import RawExample
from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.image_labels import ONE_LABEL, SEVERAL_LABELS
from tilewise.data.label_numbers import ImageLabels, has_class_ids
from tilewise.data.objects_as import classes_of_objects, cut_objects
from tilewise.data.records import Records
from tilewise.errors import UserError
from tilewise.targets import Targets

log = logging.getLogger(__name__)

OtherClasses = Literal["drop", "ignore"]
ObjectsAs = Literal["labels", "crops"]


@dataclass(frozen=True)
class DataChoice:
    """What of each channel is used.

    Attributes:
        classes: the names of the classes to detect, in the order of their labels; empty for all.
        other_classes: what becomes of the objects of other classes: they are dropped, and are background; or
            ignored, and are neither object nor background.
        max_images: at most so many images of each channel, drawn at random.
        seed: draws them.
        label_attribute: of augmented manifests, see :func:`read_manifest`.
        fields: the optional fields of the ground truth that are read, such as masks.
        objects_as: what becomes of objects where labels of whole images are wanted: the ``labels`` of their
            image, or ``crops``, images of their own; None where the data has labels of images.

    """

    classes: tuple[str, ...] = ()
    other_classes: OtherClasses = "drop"
    max_images: int | None = None
    seed: int = 0
    label_attribute: str | None = None
    fields: frozenset[str] = frozenset()
    objects_as: ObjectsAs | None = None

    @property
    def image_labels(self) -> bool:
        """Whether labels of whole images are read, not objects."""
        return bool(self.read_fields & {ONE_LABEL, SEVERAL_LABELS})

    @property
    def read_fields(self) -> frozenset[str]:
        """The fields that are asked of the readers."""
        return self.fields - {ONE_LABEL, SEVERAL_LABELS} if self.objects_as else self.fields

    def labels(self, content_type: str) -> ImageLabels | None:
        """How images are labelled in a channel of that content type; None where they have objects."""
        if not self.image_labels:
            return None
        return ImageLabels(SEVERAL_LABELS in self.fields, has_class_ids(content_type))

    def of_records(self, records: Records, issues: ChannelIssues, classes: tuple[str, ...]) -> Records:
        """Records of a channel, with labels into ``classes``: what :attr:`objects_as` makes of them."""
        if self.objects_as is None:
            return records
        issues.image_labels = True
        if self.objects_as == "crops":
            return cut_objects(records, issues)
        return classes_of_objects(records, issues, classes, several=SEVERAL_LABELS in self.fields)

    def num_classes_of_data(self, given: int | None) -> int | None:
        """How many classes the data has, where a job says a number: of all classes, or of those it chose."""
        return None if self.classes and given == len(self.classes) else given

    def of_classes(self, known: tuple[str, ...]) -> tuple[str, ...]:
        """The classes to detect, of those that the data has.

        Raises:
            UserError: it does not have one of them.

        """
        unknown = [name for name in self.classes if name not in known]
        if unknown:
            raise UserError(
                f"only the classes {', '.join(self.classes)} are wanted, but of them the data does not have "
                f"{', '.join(map(repr, unknown))}: it has the classes "
                f"{', '.join(known)}"
            )
        return self.classes or known

    def of_objects(self, example: RawExample, known: tuple[str, ...]) -> RawExample:
        """An example with the objects of the chosen classes; its labels were into ``known``."""
        if not self.classes or not len(example.targets):
            return example
        table = np.asarray([_index(self.classes, name) for name in known], np.int64)
        labels = table[example.targets.labels]
        chosen = example.with_labels(labels).targets.select(labels >= 0)
        if self.other_classes == "ignore":
            others = example.targets.select(labels < 0)
            chosen = Targets.cat([chosen, *(_ignored(others, label) for label in range(len(self.classes)))])
        return replace(example, targets=chosen)

    def of_examples(
        self, examples: Sequence[RawExample], known: tuple[str, ...], channel: str
    ) -> Sequence[RawExample]:
        """Examples of a channel, with labels into ``known``: some of them, with their chosen objects."""
        if self.max_images is not None and len(examples) > self.max_images:
            log.info(
                "channel %s: %d of %d images are used (max_images, drawn with seed %d)",
                channel,
                self.max_images,
                len(examples),
                self.seed,
            )
            drawn = np.random.default_rng(self.seed).permutation(len(examples))[: self.max_images]
            examples = [examples[index] for index in np.sort(drawn).tolist()]
        if not self.classes:
            return examples
        chosen = [self.of_objects(example, known) for example in examples]
        before = sum(len(example.targets) for example in examples)
        labels = [label for label, name in enumerate(known) if name in self.classes]
        after = sum(int(np.isin(example.targets.labels, labels).sum()) for example in examples)
        log.info(
            "channel %s: %d of %d boxes are of the classes %s; the others are %s",
            channel,
            after,
            before,
            ", ".join(self.classes),
            "ignored" if self.other_classes == "ignore" else "dropped",
        )
        return chosen


EVERYTHING_OF_IT = DataChoice()
"""All images and classes."""


def _index(names: tuple[str, ...], name: str) -> int:
    return names.index(name) if name in names else -1


def _ignored(targets: Targets[Array], label: int) -> Targets[Array]:
    """Objects as ignored ones of a class: detections of each class are looked for among those of its own."""
    labels: Int64 = np.full(len(targets), label, np.int64)
    return replace(targets, labels=labels, ignored=np.ones(len(targets), np.bool_))

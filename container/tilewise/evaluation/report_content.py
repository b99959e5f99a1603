from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tilewise.views.rendering import AS_STORED, Rendering


@dataclass(frozen=True)
class ReportContent:
    """What a report tells of.

    Attributes:
        classes: names by label.
        epochs: the history, a dict for each epoch as ``metrics.json`` has it.
        best: the figures of the saved model on the validation images; empty without validation.
        test: the same on the test channel.
        stopped: whether the job was stopped on request.
        hyperparameters: all of them.
        given: name -> the user's spelling of it, for those that the user gave.
        data: channel name -> its figures, as the task has them.
        rendering: which of an image's stored values the model sees, and its pictures show.
        from_scratch: why the job trained from scratch although weights were asked for; else empty.
        analysis: what the task has to say of the saved model and the validation images; None without.

    """

    classes: tuple[str, ...]
    epochs: Sequence[Mapping[str, Any]] = ()
    best: Mapping[str, Any] = field(default_factory=dict)
    test: Mapping[str, Any] | None = None
    stopped: bool = False
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    given: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rendering: Rendering = AS_STORED
    from_scratch: str = ""
    analysis: Any = None

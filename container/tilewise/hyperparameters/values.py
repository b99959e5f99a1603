"""The kinds of values that hyperparameters take, and how a text is read as one of them."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError


def _read_flag(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value.lower() not in ("true", "1", "false", "0"):
        raise ValueError("not a flag")
    return value.lower() in ("true", "1")


def _read_steps(value: object) -> object:
    if not isinstance(value, str):
        return value
    steps = value.strip("[]() ,")
    return steps.split(",") if steps else ()


def _check_increasing(steps: tuple[float, ...]) -> tuple[float, ...]:
    if list(steps) != sorted(set(steps)):
        raise ValueError("not increasing")
    return steps


def _read_grid(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value.lower() == "auto":
        return "auto"
    return re.split("[xX,]", value.strip("[]() "))


def _check_tiled(grid: object) -> object:
    if grid == (1, 1):
        raise ValueError("one tile")
    return grid


def _check_pattern(pattern: str | None) -> str | None:
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise ValueError(str(error)) from None
    return pattern


def _check_class_map(names: dict[int, str] | None) -> dict[int, str] | None:
    if names is None:
        return None
    if not names or len(set(names.values())) < len(names):
        raise ValueError("no classes, or two of one name")
    return dict(sorted(names.items()))


def _read_names(value: object) -> object:
    """``car,person``, or a JSON list where names hold commas."""
    if not isinstance(value, str):
        return value
    if value.startswith("["):
        return json.loads(value)
    return tuple(name.strip() for name in value.split(","))


def _check_names(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("a name twice")
    return names


def _read_scales(value: object) -> object:
    return value.strip("[]() ,").split(",") if isinstance(value, str) else value


def _read_ranges(value: object) -> object:
    """``80-,0-100`` -> ((80, None), (0, 100))."""
    if not isinstance(value, str):
        return value
    pairs = [pair.strip().partition("-") for pair in value.strip("[]() ,").split(",")]
    return tuple((low.strip(), high.strip() or None if dash else "") for low, dash, high in pairs)


def _check_ranges(ranges: tuple[tuple[float, float | None], ...]) -> tuple[tuple[float, float | None], ...]:
    if any(high is not None and low >= high for low, high in ranges):
        raise ValueError("an empty range")
    return ranges


def _read_numbers(value: object) -> object:
    return value.strip("[]() ,").split(",") if isinstance(value, str) else value


def _check_bands(bands: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if bands is not None and len(bands) not in (1, 3):
        raise ValueError("neither one band nor three")
    return bands


def _check_range(values: tuple[float, float] | None) -> tuple[float, float] | None:
    if values is not None and values[0] >= values[1]:
        raise ValueError("an empty range")
    return values


AUTO_BATCH = 0
"""The value of a batch size that the job is to find out: no batch has so many images."""


def _read_batch_size(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value.lower() == "auto":
        return AUTO_BATCH
    if not int(value.partition(".")[0]):
        raise ValueError("an empty batch")
    return value


def _read_json(value: object) -> object:
    return json.loads(value) if isinstance(value, str) else value


def _read_model_size(value: object) -> object:
    """``xlarge`` is what Azure's first SDK called it."""
    return "extra_large" if isinstance(value, str) and _plain(value) == "xlarge" else value


def _plain(text: str) -> str:
    """A word as snake, kebab and Pascal case have it in common."""
    return re.sub(r"[\s_-]", "", text).lower()


def _unset_by(word: str) -> BeforeValidator:
    return BeforeValidator(lambda value: None if isinstance(value, str) and value.lower() == word else value)


Flag = Annotated[bool, BeforeValidator(_read_flag)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Overlap = Annotated[float, Field(ge=0, lt=1)]
MergeName = Literal["fragment", "nms", "wbf"]
TTAName = Literal["none", "mirror"]
Steps = Annotated[
    tuple[Count, ...],
    BeforeValidator(_read_steps),
    AfterValidator(_check_increasing),
    Field(description="increasing epochs from 1, such as 20,30"),
]
Grid = Annotated[
    tuple[Count, Count] | Literal["auto"] | None,
    BeforeValidator(_read_grid),
    AfterValidator(_check_tiled),
    Field(description="columns x rows of more than one tile, such as 3x2, or auto"),
]
_Scale = Annotated[float, Field(ge=0.125, le=16)]
Scales = Annotated[
    tuple[_Scale, ...],
    BeforeValidator(_read_scales),
    AfterValidator(_check_increasing),
    Field(description="increasing numbers from 0.125 to 16, such as 0.5,1,2"),
]


def _read_multi_scale(value: object) -> object:
    """A flag, ``auto``, or ``0.5,1,1.5``; one factor alone would be no choice."""
    if not isinstance(value, str):
        return value
    if value.lower() in ("true", "1", "false", "0"):
        return value.lower() in ("true", "1")
    if value.lower() == "auto":
        return "auto"
    return tuple(value.strip("[]() ,").split(","))


def _read_auto_flag(value: object) -> object:
    if not isinstance(value, str):
        return value
    return "auto" if value.lower() == "auto" else _read_flag(value)


def _check_factors(value: object) -> object:
    if isinstance(value, tuple) and len(value) < 2:
        raise ValueError("one factor")
    return _check_increasing(value) if isinstance(value, tuple) else value


AutoFlag = Annotated[
    bool | Literal["auto"],
    BeforeValidator(_read_auto_flag),
    Field(description="0, 1, true, false or auto"),
]
_Factor = Annotated[float, Field(ge=0.125, le=4)]
MultiScale = Annotated[
    bool | Literal["auto"] | tuple[_Factor, ...],
    BeforeValidator(_read_multi_scale),
    AfterValidator(_check_factors),
    Field(description="0, 1, auto, or increasing factors from 0.125 to 4, such as 0.5,0.75,1,1.25,1.5"),
]
_Size = Annotated[float, Field(ge=0)]
Ranges = Annotated[
    tuple[tuple[_Size, _Size | None], ...],
    BeforeValidator(_read_ranges),
    AfterValidator(_check_ranges),
    Field(description="ranges of pixels such as 120-,32-150,0-80, of which the first is open"),
]
ObjectSize = Annotated[
    Annotated[float, Field(gt=0)] | Literal["auto"],
    BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value),
    Field(description="a number of pixels, greater than 0, or auto"),
]
Few = Annotated[int, Field(ge=1, le=10)]
Workers = Annotated[
    Natural | None, _unset_by("auto"), Field(description="a whole number, at least 0, or auto")
]
BatchSize = Annotated[
    Natural,
    BeforeValidator(_read_batch_size),
    Field(description="a whole number, at least 1, or auto"),
]
Share = Annotated[float, Field(gt=0, lt=1)]
ModelSize = Annotated[
    Literal["small", "medium", "large", "extra_large"] | None, BeforeValidator(_read_model_size)
]
PrimaryMetric = Literal[
    "mean_average_precision",
    "AP",
    "AP50",
    "AP75",
    "AP_very_tiny",
    "AP_small",
    "AP_medium",
    "AP_large",
    "AR",
    "AR_small",
    "AR_medium",
    "AR_large",
    "accuracy",
    "iou",
    "AUC_weighted",
    "norm_macro_recall",
    "average_precision_score_weighted",
    "precision_score_weighted",
]
AdvancedSettings = Annotated[
    dict[
        Literal["apply_automl_train_augmentations", "apply_mosaic_for_yolo", "stream_image_files"],
        Flag,
    ]
    | None,
    BeforeValidator(_read_json),
    Field(
        description="JSON text with flags apply_automl_train_augmentations, apply_mosaic_for_yolo and "
        'stream_image_files, such as {"apply_automl_train_augmentations": false}'
    ),
]
Bands = Annotated[
    tuple[Count, ...] | None,
    BeforeValidator(_read_numbers),
    AfterValidator(_check_bands),
    Field(description="three numbers of bands from 1, such as 4,3,2, or one"),
]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
PixelRange = Annotated[
    tuple[_Finite, _Finite] | None,
    BeforeValidator(_read_numbers),
    AfterValidator(_check_range),
    Field(description="two numbers, the lower first, such as 0,4095"),
]
Decay = Annotated[float, Field(ge=0, lt=1)]
ClassMap = Annotated[
    dict[Natural, Annotated[str, Field(min_length=1)]] | None,
    BeforeValidator(_read_json),
    AfterValidator(_check_class_map),
    Field(description='JSON text with a name of its own for each class id, such as {"0": "dog", "5": "cat"}'),
]
Names = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    BeforeValidator(_read_names),
    AfterValidator(_check_names),
    Field(description='different names such as car,person, or as JSON ["car", "person"]'),
]
Pattern = Annotated[
    str | None, _unset_by("false"), AfterValidator(_check_pattern), Field(description="a regular expression")
]

LARGEST = 2**32
"""No whole number may be larger: beyond it tensors and floats could not hold what is computed from it."""

_BOUNDS = {
    "exclusiveMinimum": "greater than",
    "minimum": "at least",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
}


class Values:
    """The values of one type that a hyperparameter may have.

    Attributes:
        allowed: what is allowed, in words that follow "must be".
        optional: whether none is allowed.

    """

    def __init__(self, annotation: Any) -> None:
        self._adapter: TypeAdapter[Any] = TypeAdapter(annotation)
        schema = self._adapter.json_schema()
        one_of = schema.get("anyOf", [schema])
        self.optional = {"type": "null"} in one_of
        self._choices = _words_of(one_of[0])
        self.allowed = schema.get("description") or _in_words(one_of[0])

    def read(self, text: str) -> Any:
        """Read a stripped, non-empty text; "none" and "null" in any case are None where none is allowed.

        One of several words may be in snake case (Azure's YAML), or in Pascal case (its REST interface).

        Raises:
            ValueError: the text is not one of the values; the message says what it must be.

        """
        if text.lower() in ("none", "null"):
            if self.optional:
                return None
            text = "none"
        plain = _plain(text)
        text = next((choice for choice in self._choices if _plain(choice) == plain), text)
        try:
            value = self._adapter.validate_python(text)
        except ValidationError:
            raise ValueError(f"must be {self.allowed}{did_you_mean(text, self._choices, most=1)}") from None
        if isinstance(value, int) and value > LARGEST:
            raise ValueError(f"must be {self.allowed}, and at most {LARGEST}")
        return value


def _words_of(schema: dict[str, Any]) -> list[str]:
    """The words that a schema allows, where it allows some words only."""
    words: list[str] = [schema["const"]] if "const" in schema else schema.get("enum", [])
    return words


def _in_words(schema: dict[str, Any]) -> str:
    if words := _words_of(schema):
        return f"one of {', '.join(words)}" if len(words) > 1 else words[0]
    if schema["type"] == "boolean":
        return "0, 1, true or false"
    if schema["type"] == "string":
        return "text"
    bounds = " and ".join(f"{words} {schema[bound]}" for bound, words in _BOUNDS.items() if bound in schema)
    return f"a whole number, {bounds}" if schema["type"] == "integer" else bounds


def did_you_mean(word: str, known: Iterable[str], most: int = 3) -> str:
    """`` (did you mean …?)`` with the nearest known words, best first; empty where none is near."""
    matches = difflib.get_close_matches(word.lower(), list(known), n=most)
    return f" (did you mean {', '.join(matches)}?)" if matches else ""


def shown(text: str, longest: int = 60) -> str:
    """A value as a message shows it: a number as it is, any other text in quotes, a long one cut."""
    if len(text) > longest:
        return repr(text[: longest - 1] + "…")
    try:
        float(text)
    except ValueError:
        return repr(text)
    return text

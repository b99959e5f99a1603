"""How Azure AutoML asks for explanations. Without torch: a wrong request does not have to wait for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tilewise.errors import UserError

Algorithm = Literal["xrai", "integrated_gradients", "guided_gradcam", "guided_backprop"]
_NEEDS_RELU = ("guided_gradcam", "guided_backprop")
_WITHOUT_RELU = ("mobilenetv2", "vits16r224", "vitb16r224", "vitl16r224")


class Parameters(BaseModel):
    """``xai_parameters``, by Azure's names.

    Attributes:
        xai_algorithm: the method.
        visualizations: whether the answer has a sheet of pictures.
        attributions: whether it has how much each pixel counts.
        confidence_score_threshold_multilabel: of several classes those with this score are explained.
        n_steps: between a black image and this one; not of guided methods.
        xrai_fast: of ``xrai`` the faster of its two ways.
        approximation_method: of ``integrated_gradients``.

    """

    model_config = ConfigDict(extra="forbid")

    xai_algorithm: Algorithm = "xrai"
    visualizations: bool = True
    attributions: bool = False
    confidence_score_threshold_multilabel: Annotated[float, Field(ge=0, le=1)] = 0.5
    n_steps: Annotated[int, Field(ge=2, le=300)] = 50
    xrai_fast: bool = True
    approximation_method: Literal["riemann_middle", "gausslegendre"] = "riemann_middle"


def read_parameters(asked: Mapping[str, Any], model_name: str) -> Parameters:
    """The parameters of a request, for a model.

    Raises:
        UserError: one is unknown or wrong, or the method is not defined for the model.

    """
    try:
        parameters = Parameters.model_validate(dict(asked))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        known = ", ".join(Parameters.model_fields)
        text = (
            f"there is none of this name (they are {known})"
            if first["type"] == "extra_forbidden"
            else first["msg"]
        )
        raise UserError(f"xai_parameters: {name}: {text}") from None
    if parameters.xai_algorithm in _NEEDS_RELU and model_name in _WITHOUT_RELU:
        raise UserError(
            f"xai_algorithm={parameters.xai_algorithm} follows ReLUs, of which {model_name} has none: take "
            "xrai or integrated_gradients"
        )
    return parameters

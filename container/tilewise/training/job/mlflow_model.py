"""A model as MLflow loads and serves it; MLflow runs this file, so it stands alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

from tilewise.inference.description import ModelDescription
from tilewise.inference.two_stages import load_predictor
from tilewise.tasks.answers import Answered, answers_of


class Model(mlflow.pyfunc.PythonModel):
    """Answers about encoded images, as an endpoint does."""

    def load_context(self, context: Any) -> None:
        """Load the model that the context names."""
        folder = Path(context.artifacts["model"])
        self.answers = answers_of(ModelDescription.read(folder).task)
        self.predictor = load_predictor(folder)

    # MLflow would check inputs by the types of predict in place of the signature, so it has none
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """One row an image.

        Args:
            context: MLflow's.
            model_input: a table with a column ``image``, of encoded images as bytes.
            params: not used.

        Returns:
            A table whose column ``prediction`` holds the JSON that an endpoint answers about one image.

        """
        rows = []
        for image in model_input["image"]:
            answered = Answered(self.predictor.predict(image), self.predictor.classes)
            rows.append(json.dumps(self.answers.content(answered, as_annotation=False)))
        return pd.DataFrame({"prediction": rows})


mlflow.models.set_model(Model())

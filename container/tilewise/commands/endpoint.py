from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import numpy as np

from tilewise.data.decoding.decode import read_header
from tilewise.errors import UserError
from tilewise.inference.detections import Prediction
from tilewise.instances import Instances
from tilewise.masks import MASKS, Masks, RunLengths
from tilewise.rasters import decompressed
from tilewise.tasks.classification.prediction import ClassScores

TIMEOUT_SECONDS = 60
ACCEPT = "application/json;format=coco, application/json;q=0.5"
"""COCO's results have exact masks; whoever does not know them answers with the built-in's rows."""


def ask_endpoint(url: str, image: bytes) -> Any:
    """Send an encoded image to a running ``/invocations``, and read the answer.

    A detector's is a :class:`Prediction`, a classifier's :class:`ClassScores`.

    Args:
        url: ``http://127.0.0.1:8080``, without a path.
        image: an image file's bytes.

    Raises:
        UserError: it is no address, nobody answers there, or with an error; the message has the server's
            reason.

    """
    if not url.startswith(("http://", "https://")):
        raise UserError(f"--endpoint {url}: give an address, such as http://127.0.0.1:8080")
    request = Request(
        f"{url.rstrip('/')}/invocations",
        data=image,
        headers={"Content-Type": "application/x-image", "Accept": ACCEPT},
    )
    try:
        with urlopen(request, timeout=TIMEOUT_SECONDS) as response:  # the user names the address
            answer = json.loads(response.read())
        header = read_header(image)
        if isinstance(answer, dict) and not isinstance((answer["prediction"] or [[]])[0], list):
            scores = np.array(answer["prediction"], np.float32)
            return ClassScores(header.width, header.height, scores)
        found = _from_coco if isinstance(answer, list) else _from_rows
        return Prediction(header.width, header.height, found(answer, header.width, header.height))
    except HTTPError as error:
        raise UserError(f"{url} answers {error.code}: {error.read(1000).decode(errors='replace')}") from None
    except (URLError, OSError, http.client.HTTPException) as error:
        raise UserError(f"{url} does not answer: {error}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{url} answers something else than a prediction: {error}") from None


def _from_rows(answer: Any, width: int, height: int) -> Instances:
    """The built-in's form."""
    table = np.array(answer["prediction"], np.float64).reshape(-1, 6)
    corners = table[:, 2:] * (width, height, width, height)
    return Instances(corners.astype(np.float32), table[:, 1].astype(np.float32), table[:, 0].astype(np.int64))


def _from_coco(answer: Any, width: int, height: int) -> Instances:
    """COCO's results."""
    boxes = np.array([row["bbox"] for row in answer], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    segmentations = [row.get("segmentation") for row in answer]
    shapes = [
        each and RunLengths(width, height, decompressed(each["counts"].encode())) for each in segmentations
    ]
    masks = Masks.of(shapes).crop((0, 0, width, height), (width, height))
    return Instances(
        boxes.astype(np.float32),
        np.array([row["score"] for row in answer], np.float32),
        np.array([row["category_id"] - 1 for row in answer], np.int64),
        {MASKS: masks} if any(shapes) else {},
    )

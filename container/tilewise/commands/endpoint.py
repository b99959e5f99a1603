from __future__ import annotations

import http.client
import json
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import numpy as np

from tilewise.data.decode import read_header
from tilewise.errors import UserError
from tilewise.inference.detections import Prediction
from tilewise.instances import Instances

TIMEOUT_SECONDS = 60


def ask_endpoint(url: str, image: bytes) -> Prediction:
    """Send an encoded image to a running ``/invocations`` and read the answer.

    Args:
        url: ``http://127.0.0.1:8080``, without a path.
        image: an image file's bytes.

    Raises:
        UserError: nobody answers there, or with an error; the message has the server's reason.

    """
    request = Request(
        f"{url.rstrip('/')}/invocations",
        data=image,
        headers={"Content-Type": "application/x-image", "Accept": "application/json"},
    )
    try:
        with urlopen(request, timeout=TIMEOUT_SECONDS) as response:  # the user names the address
            rows = json.loads(response.read())["prediction"]
    except HTTPError as error:
        raise UserError(f"{url} answers {error.code}: {error.read(1000).decode(errors='replace')}") from None
    except (URLError, OSError, http.client.HTTPException) as error:
        raise UserError(f"{url} does not answer: {error}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{url} answers something else than a prediction: {error}") from None
    header = read_header(image)
    table = np.array(rows, np.float64).reshape(-1, 6)
    sides = np.array([header.width, header.height] * 2)
    detections = Instances(
        (table[:, 2:] * sides).astype(np.float32),
        table[:, 1].astype(np.float32),
        table[:, 0].astype(np.int64),
    )
    return Prediction(header.width, header.height, detections)

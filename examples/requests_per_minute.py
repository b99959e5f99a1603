"""How many requests a minute an instance takes, from the figures of a server that has answered some.

    python examples/requests_per_minute.py http://localhost:8080/metrics [--share 0.7]

Start the image on the instance type of the endpoint, with its environment, send it a hundred typical images,
and ask: what is printed is `--requests-per-minute` of deploy.py, the load at which it adds an instance.
SageMaker lets nobody but itself ask an endpoint for `/metrics`, so that this is measured before.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from urllib.request import urlopen

WORK = ("decode", "compute", "merge")


def read_figures(text: str) -> dict[str, list[float]]:
    """The samples of each figure, in Prometheus' form, whatever their labels."""
    figures = defaultdict(list)
    for name, value in re.findall(r"^(\w+)(?:\{.*\})? (\S+)$", text, re.MULTILINE):
        figures[name].append(float(value))
    return figures


def requests_per_minute(text: str, share: float) -> float:
    """What an instance takes, so that its workers compute for so large a share of the time.

    Raises:
        ValueError: nothing has been computed.

    """
    figures = read_figures(text)
    requests = sum(figures["tilewise_compute_seconds_count"])
    if not requests:
        raise ValueError("the server has not computed anything: send it images first")
    seconds = sum(sum(figures[f"tilewise_{stage}_seconds_sum"]) for stage in WORK)
    workers = len(figures["tilewise_worker_memory_bytes"])
    return share * 60 * workers * requests / seconds


def main() -> int:
    """Print the number."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("url", help="of a server's /metrics")
    parser.add_argument("--share", type=float, default=0.7, help="of the time that workers compute (0.7)")
    arguments = parser.parse_args()
    with urlopen(arguments.url, timeout=10) as response:
        text = response.read().decode()
    try:
        print(int(requests_per_minute(text, arguments.share)))
    except ValueError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())

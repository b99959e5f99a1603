"""Wait until an endpoint answers /ping, as SageMaker does: ``wait_for_ping.py URL PID``."""

from __future__ import annotations

import os
import sys
import time
from urllib.error import URLError
from urllib.request import urlopen

LIMIT_SECONDS = 240
"""SageMaker gives a container four minutes."""


def wait_for_ping(url: str, process: int) -> bool:
    """Whether /ping answered 200 before the limit and before the server's process ended."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < deadline:
        try:
            with urlopen(f"{url}/ping", timeout=2) as response:
                if response.status == 200:
                    return True
        except (URLError, OSError):
            pass
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.2)
    return False


if __name__ == "__main__":
    sys.exit(0 if wait_for_ping(sys.argv[1], int(sys.argv[2])) else 1)

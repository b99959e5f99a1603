"""Run a program whose minutes are those that it computes: other work on the machine costs it none.

python benchmarks/by_the_cpus_clock.py train
"""

import queue  # noqa: F401  # what waits for somebody keeps the true clock
import runpy
import selectors  # noqa: F401
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    time.monotonic = time.perf_counter = time.process_time
    program = Path(sys.argv[1]).resolve()
    sys.argv = [str(program), *sys.argv[2:]]
    sys.path[0] = str(program.parent)
    runpy.run_path(str(program), run_name="__main__")

"""Fewer threads for a training's steps on a CPU while other work keeps its cores busy."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from tilewise.training.job.calibration import Compute

log = logging.getLogger(__name__)


class ThreadTuner:
    """Takes fewer threads while other work keeps this machine's cores busy.

    A step that computes on several threads waits for the slowest, and one of them has no core of its own
    while another process runs there. Where steps have become much slower than they were, half the threads
    are tried for a while, and kept if they are faster; later twice as many are tried again. Each trial that
    changes nothing doubles the wait for the next one.

    Args:
        compute: its threads are what there is at most; they are changed, so that a checkpoint has them.
        clock: seconds.
        set_threads: PyTorch's.

    Attributes:
        active: whether it may change them.

    """

    WINDOW = 5.0
    """Seconds of steps that are compared."""
    SLOWER = 1.3
    """Times the seconds of before: what is much slower."""
    FASTER = 1.05
    WAIT, LONGEST_WAIT = 30.0, 600.0

    def __init__(
        self,
        compute: Compute,
        clock: Callable[[], float] = time.perf_counter,
        set_threads: Callable[[int], None] = torch.set_num_threads,
    ):
        self._compute, self._clock, self._set_threads = compute, clock, set_threads
        self._most = compute.threads
        self.active = not compute.fixed and self._most > 1
        self._best = 0.0
        self._before = self._most
        self._rates: dict[int, float] = {}  # of a trial, by threads
        self._untried: list[int] = []
        self._pixels, self._seconds = 0, 0.0
        self._wait, self._next_trial = self.WAIT, 0.0

    @property
    def threads(self) -> int:
        """Those that steps are computed on."""
        return self._compute.threads

    @contextmanager
    def step(self, pixels: int) -> Iterator[None]:
        """Around a step that learns from so many pixels of views."""
        if not self.active:
            yield
            return
        start = self._clock()
        yield
        now = self._clock()
        self._pixels += pixels
        self._seconds += now - start
        if self._seconds >= self.WINDOW:
            self._judge(self._pixels / self._seconds, now)
            self._pixels, self._seconds = 0, 0.0

    def _judge(self, rate: float, now: float) -> None:
        """Of a window that is over: it may be part of a trial, or begin one."""
        threads = self._compute.threads
        if self._untried or self._rates:
            self._rates[threads] = rate
            if self._untried:
                self._use(self._untried.pop())
            else:
                self._end_trial(now)
            return
        self._best = max(self._best, rate)
        more = [min(self._most, 2 * threads)] if threads < self._most else []
        fewer = [threads // 2] if threads > 1 and rate * self.SLOWER < self._best else []
        if (more or fewer) and now >= self._next_trial:
            self._before, self._rates, self._untried = threads, {threads: rate}, fewer + more
            self._use(self._untried.pop())

    def _end_trial(self, now: float) -> None:
        rates, self._rates, before = self._rates, {}, self._before
        fastest = max(rates, key=lambda threads: rates[threads])
        gain = rates[fastest] / rates[before]
        if gain > self.FASTER:
            log.info(
                "steps are %.1f times as fast on %d threads as on %d, beside what else this machine does",
                gain,
                fastest,
                before,
            )
            self._use(fastest)
            self._wait = self.WAIT
        else:
            self._use(before)
            self._wait = min(self.LONGEST_WAIT, 2 * self._wait)
        self._next_trial = now + self._wait

    def _use(self, threads: int) -> None:
        self._compute.threads = threads
        self._set_threads(threads)

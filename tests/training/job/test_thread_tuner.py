from __future__ import annotations

import logging

import pytest
from tilewise.training.job.calibration import Compute
from tilewise.training.job.thread_tuner import ThreadTuner


class Load:
    """Steps on a machine where other work may run: their seconds by threads."""

    def __init__(self, compute: Compute):
        self.seconds = {4: 1.0, 2: 1.8, 1: 3.5}
        self.now, self.threads = 0.0, compute.threads
        self.tuner = ThreadTuner(compute, clock=lambda: self.now, set_threads=self.use)

    def use(self, threads: int) -> None:
        self.threads = threads

    def run(self, seconds: float) -> list[int]:
        """Train for so long; returns the threads of each step."""
        used, end = [], self.now + seconds
        while self.now < end:
            with self.tuner.step(1000):
                used.append(self.threads)
                self.now += self.seconds[self.threads]
        return used


BESIDE_OTHERS = {4: 5.0, 2: 2.0, 1: 3.6}


def test_tuner__takes_fewer_threads_beside_other_work_and_more_after_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    load = Load(Compute(threads=4))
    assert set(load.run(60)) == {4}
    load.seconds = BESIDE_OTHERS
    load.run(60)
    assert set(load.run(20)) == {2}
    assert "2.5 times as fast on 2 threads as on 4" in caplog.text
    load.seconds = {4: 1.0, 2: 1.8, 1: 3.5}
    load.run(120)
    assert load.run(30)[-10:] == [4] * 10


def test_tuner__trials_without_success_become_rare() -> None:
    """Slow for another reason than threads: most steps keep what they had."""
    load = Load(Compute(threads=4))
    load.run(30)
    load.seconds = {4: 2.0, 2: 3.6, 1: 7.0}
    used = load.run(3000)
    assert 0 < used.count(2) < len(used) / 50


@pytest.mark.parametrize("compute", [Compute(threads=4, fixed=True), Compute(threads=1)])
def test_tuner__threads_that_are_fixed_stay(compute: Compute) -> None:
    load = Load(compute)
    load.run(60)
    load.seconds = {threads: 10 * seconds for threads, seconds in BESIDE_OTHERS.items()}
    assert len(set(load.run(600))) == 1


def test_tuner__a_checkpoint_has_its_threads() -> None:
    compute = Compute(threads=4)
    load = Load(compute)
    load.run(30)
    load.seconds = BESIDE_OTHERS
    load.run(60)
    assert compute.state_dict() == {"threads": 2}

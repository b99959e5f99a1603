from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping

LINE_EVERY_SECONDS = 30.0
SCORES = ("accuracy",)
"""What of a training's figures is the better, the higher it is."""


class MetricLines:
    """Prints the lines of the built-in algorithms that their metric definitions read.

    ``validation:mAP``, or of classification ``validation:accuracy`` and ``train:accuracy``;
    ``train:cross_entropy``, ``train:smooth_l1``, ``train:progress`` and
    ``train:throughput``.

    Args:
        host: this host's name, as SageMaker gives it.
        quiet: whether nothing is printed: one process does for all.

    """

    def __init__(self, host: str, *, quiet: bool = False):
        self.host, self.quiet = host, quiet
        self._last_line = time.monotonic()

    def batches(self, epoch: int, batches: int, records: int, *, seconds: float) -> None:
        """How far an epoch is, now and then; a terminal has a progress bar instead."""
        if sys.stderr.isatty() or time.monotonic() - self._last_line < LINE_EVERY_SECONDS:
            return
        self._last_line = time.monotonic()
        speed = records / seconds
        self._print(
            f"Epoch: {epoch:4}, batches: {batches:6}, num_examples: {records:6}, {speed:.1f} samples/sec, "
            f"epoch time so far: {seconds:.0f} s"
        )

    def losses(self, epoch: int, batches: int, figures: Mapping[str, float]) -> None:
        """The mean losses of an epoch, by the names that the metric definitions know."""
        for name, value in figures.items():
            kind = "score" if name in SCORES else "loss"
            self._print(
                f"#quality_metric: host={self.host}, epoch={epoch}, batch={batches} "
                f"train {name} <{kind}>=({value:.6f})"
            )

    def throughput(self, records_per_second: float) -> None:
        """Training images a second."""
        self._print(
            f"#throughput_metric: host={self.host}, train throughput={records_per_second:.2f} records/second"
        )

    def validation(self, epoch: int, scores: Mapping[str, float], figures: Iterable[str]) -> None:
        """The scores that metric definitions read, then lines with all figures."""
        for name, score in scores.items():
            self._print(
                f"#quality_metric: host={self.host}, epoch={epoch}, validation {name} <score>=({score:.6f})"
            )
        self._print_all(figures)

    def test(self, scores: Mapping[str, float], figures: Iterable[str]) -> None:
        """The scores of the saved model on the test channel, then lines with all figures."""
        for name, score in scores.items():
            self._print(f"#quality_metric: host={self.host}, test {name} <score>=({score:.6f})")
        self._print_all(figures)

    def best(self, name: str, score: float) -> None:
        """A model was saved."""
        self._print(f"Updating the best model with validation-{name}={score:.6f}")

    def progress(self, done: int, epochs: int) -> None:
        """The share of the epochs that is done."""
        self._print(f"#progress_metric: host={self.host}, completed {100 * done // epochs} % of epochs")

    def _print_all(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._print(line)

    def _print(self, line: str) -> None:
        if not self.quiet:
            print(line, flush=True)

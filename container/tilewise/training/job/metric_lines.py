from __future__ import annotations

import sys
import time
from typing import Any

LINE_EVERY_SECONDS = 30.0


class MetricLines:
    """Prints the lines of the built-in Object Detection algorithm that its metric definitions read.

    ``validation:mAP``, ``train:cross_entropy``, ``train:smooth_l1``, ``train:progress`` and
    ``train:throughput``.

    Args:
        host: this host's name, as SageMaker gives it.
        silent: whether nothing is printed: one process does for all.

    """

    def __init__(self, host: str, silent: bool = False):
        self.host, self.silent = host, silent
        self._last_line = time.monotonic()

    def batches(self, epoch: int, batches: int, records: int, seconds: float) -> None:
        """How far an epoch is, now and then; a terminal has a progress bar instead."""
        if sys.stderr.isatty() or time.monotonic() - self._last_line < LINE_EVERY_SECONDS:
            return
        self._last_line = time.monotonic()
        speed = records / seconds
        self._print(
            f"Epoch: {epoch:4}, batches: {batches:6}, num_examples: {records:6}, {speed:.1f} samples/sec, "
            f"epoch time so far: {seconds:.0f} s"
        )

    def losses(self, epoch: int, batches: int, what: float, where: float) -> None:
        """The mean losses of an epoch: of the classes, and of the boxes."""
        start = f"#quality_metric: host={self.host}, epoch={epoch}, batch={batches} train"
        self._print(f"{start} cross_entropy <loss>=({what:.6f})")
        self._print(f"{start} smooth_l1 <loss>=({where:.6f})")

    def throughput(self, records_per_second: float) -> None:
        """Training images a second."""
        self._print(
            f"#throughput_metric: host={self.host}, train throughput={records_per_second:.2f} records/second"
        )

    def validation(self, epoch: int, score: float, metrics: dict[str, Any]) -> None:
        """The score that chooses the model, then all figures and each class's."""
        self._print(f"#quality_metric: host={self.host}, epoch={epoch}, validation mAP <score>=({score:.6f})")
        self._print_figures("validation", metrics)

    def test(self, metrics: dict[str, Any]) -> None:
        """The figures of the saved model on the test channel."""
        self._print(f"#quality_metric: host={self.host}, test mAP <score>=({metrics['VOC']['mAP']:.6f})")
        self._print_figures("test", metrics)

    def best(self, score: float) -> None:
        """A model was saved."""
        self._print(f"Updating the best model with validation-mAP={score:.6f}")

    def progress(self, done: int, epochs: int) -> None:
        """The share of the epochs that is done."""
        self._print(f"#progress_metric: host={self.host}, completed {100 * done // epochs} % of epochs")

    def _print_figures(self, channel: str, metrics: dict[str, Any]) -> None:
        names = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
        figures = ", ".join(f"{name} {_figure(metrics[name])}" for name in names)
        self._print(f"{channel}: {figures}, VOC mAP {metrics['VOC']['mAP']:.4f}")
        by_class = ", ".join(f"{name} {_figure(value)}" for name, value in metrics["AP_class"].items())
        self._print(f"{channel} AP by class: {by_class}")

    def _print(self, line: str) -> None:
        if not self.silent:
            print(line, flush=True)


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"

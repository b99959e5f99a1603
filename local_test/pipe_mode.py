"""Pipe mode on this machine, for train_local.sh --pipe: what SageMaker does with a job's channels then.

pipe_mode.py lay-out BASE PIPES      make PIPES/input of BASE/input, with every channel packed as RecordIO
pipe_mode.py feed PIPES              write the channels into FIFOs, train_0, train_1, …, until it is killed
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from tilewise.commands.channels import checked_records, chosen_classes
from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.read import read_annotated
from tilewise.data.writers.output import Output
from tilewise.data.writers.recordio import write_recordio
from tilewise.errors import UserError

DATA_CHANNELS = ("train", "validation", "test")


def lay_out_pipes(base: Path, pipes: Path) -> None:
    """Make a job whose channels stream of one whose channels are folders.

    Args:
        base: like /opt/ml, its channels in any form.
        pipes: made anew. ``recordio`` gets the channels' images, ``input`` is the job's, but for the FIFOs.

    Raises:
        UserError: a channel cannot be read.

    """
    shutil.rmtree(pipes, ignore_errors=True)
    (pipes / "input" / "data").mkdir(parents=True)
    (pipes / "recordio").mkdir()
    shutil.copytree(base / "input" / "config", pipes / "input" / "config")
    config = pipes / "input" / "config"
    channels: dict[str, Any] = json.loads((config / "inputdataconfig.json").read_text(encoding="utf-8"))
    piped = [name for name in DATA_CHANNELS if name in channels]
    needed = pack_channels(base / "input" / "data", piped, pipes / "recordio")
    for name in piped:
        channels.pop(f"{name}_annotation", None)
        channels[name] = {"TrainingInputMode": "Pipe", "ContentType": "application/x-recordio"}
    for name in set(channels) - set(piped):  # pretrained weights and the like stay files
        shutil.copytree(base / "input" / "data" / name, pipes / "input" / "data" / name)
    (config / "inputdataconfig.json").write_text(json.dumps(channels, indent=2), encoding="utf-8")

    path = config / "hyperparameters.json"
    given = json.loads(path.read_text(encoding="utf-8"))
    added = {name: value for name, value in needed.items() if name not in given}
    path.write_text(json.dumps(given | added, indent=2), encoding="utf-8")
    print(
        "Pipe mode needs:", *(f"{name}={value}" for name, value in (needed | given).items() if name in needed)
    )


def pack_channels(data: Path, names: list[str], recordio: Path) -> dict[str, str]:
    """Write each channel to ``<name>.rec``; returns the hyperparameters that a pipe cannot do without."""
    annotated = {}
    for name in names:
        annotations = data / f"{name}_annotation"
        annotated[name] = read_annotated(name, data / name, annotations if annotations.is_dir() else None)
    classes = chosen_classes(annotated, None)
    images = 0
    for name in names:
        records = checked_records(annotated[name], classes, ChannelIssues(name), whose="the channels")
        images += len(records) if name == "train" else 0
        write_recordio(
            records,
            classes,
            Output(recordio, data / name),
            name=name,
            difficult=bool(records.targets.ignored.any()),
            with_size=False,
            skip_empty=False,
        )
    return {"num_classes": str(len(classes)), "num_training_samples": str(images)}


def feed(recordio: Path, channel: Path) -> None:
    """Write a file into ``<channel>_0`` once that has a reader, then into ``<channel>_1``, and so on."""
    for number in itertools.count():
        fifo = channel.with_name(f"{channel.name}_{number}")
        os.mkfifo(fifo)
        # A reader that closes early has enough of this pass.
        with suppress(BrokenPipeError), fifo.open("wb") as pipe, recordio.open("rb") as file:
            shutil.copyfileobj(file, pipe)


def main() -> int:
    """Command line; see the module."""
    try:
        if sys.argv[1] == "lay-out":
            lay_out_pipes(Path(sys.argv[2]), Path(sys.argv[3]))
            return 0
        pipes = Path(sys.argv[2])
        for recordio in sorted((pipes / "recordio").glob("*.rec")):
            threading.Thread(target=feed, args=(recordio, pipes / "input" / "data" / recordio.stem)).start()
    except (OSError, ValueError, UserError) as error:
        print(f"pipe_mode.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

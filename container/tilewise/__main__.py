"""``tilewise COMMAND``, or ``python -m tilewise COMMAND``."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from tilewise import __version__
from tilewise.errors import UserError
from tilewise.hyperparameters import as_markdown

COMMANDS = {
    "inspect": "Show what is in a channel: a table, and a picture.",
    "convert": "Convert a channel to another format.",
    "predict": "Find objects in images, and draw them.",
    "evaluate": "Compare predictions with a COCO file's ground truth.",
    "prelabel": "Label images by a model, for a labelling tool in which people correct them.",
    "errors": "List likely label errors of a channel: where a model is sure and the labels say otherwise.",
    "rank": "Order unlabelled images by what a label of each would teach the model.",
    "tune": "Search hyperparameters on this machine, and keep the best model.",
    "export": "Make the graph of a model: for its endpoint, or for use without Tilewise.",
}
"""What each does; its module is imported when it is asked for, since most load PyTorch."""


def main() -> int:
    """Run a command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="tilewise", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    asked = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    for name, purpose in COMMANDS.items():
        command = commands.add_parser(name, help=purpose)
        if name == asked:
            module = import_module(f"tilewise.commands.{name}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    reference = commands.add_parser("hyperparameters", help="Print the table of hyperparameters as Markdown.")
    reference.set_defaults(run=lambda _: print(as_markdown(), end=""))
    arguments = parser.parse_args()
    try:
        arguments.run(arguments)
    except UserError as error:
        return _failed(arguments.command, str(error))
    except OSError as error:
        named = error.filename and error.strerror
        return _failed(arguments.command, f"{error.filename}: {error.strerror}" if named else str(error))
    except KeyboardInterrupt:
        print(f"tilewise {arguments.command}: interrupted", file=sys.stderr)
        return 130
    return 0


def _failed(command: str, why: str) -> int:
    print(f"tilewise {command}: {why}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

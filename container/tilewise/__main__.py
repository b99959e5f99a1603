"""``tilewise COMMAND``, or ``python -m tilewise COMMAND``."""

from __future__ import annotations

import argparse
import sys

from tilewise import __version__
from tilewise.commands import convert, evaluate, export, inspect, predict
from tilewise.errors import UserError
from tilewise.hyperparameters import as_markdown


def main() -> int:
    """Run a command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="tilewise", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    for module in (inspect, convert, predict, evaluate, export):
        name = module.__name__.rsplit(".", 1)[-1]
        command = commands.add_parser(name, help=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    reference = commands.add_parser("hyperparameters", help="Print the table of hyperparameters as Markdown.")
    reference.set_defaults(run=lambda _: print(as_markdown(), end=""))
    arguments = parser.parse_args()
    try:
        arguments.run(arguments)
    except (UserError, OSError) as error:
        print(f"tilewise {arguments.command}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

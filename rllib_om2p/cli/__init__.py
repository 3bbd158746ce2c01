"""The command rllib-om2p: datasets, training, evaluation, export, comparison; only glue.

Heavy imports stand inside the commands, so that --help answers at once. Mistakes of the user end
with one message and status 2, without a traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from rllib_om2p import __version__
from rllib_om2p.cli import comparison, datasets, playing, training
from rllib_om2p.cli.training import TERMINATED

__all__ = ["DIVERGED", "INTERRUPTED", "TERMINATED", "USER_ERROR", "build_parser", "main"]

USER_ERROR = 2
DIVERGED = 3
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = build_parser().parse_args(arguments)
    from rllib_om2p.core.console import quiet

    quiet()
    try:
        options.run(options)
    except KeyboardInterrupt:
        _complain("stopped.")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe has gone (`| head`); Python must not complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        if options.traceback:
            raise
        return _explain(error)
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; each sets `run`, which takes the parsed options."""
    parser = argparse.ArgumentParser(
        prog="rllib-om2p",
        description="Offline multi-agent reinforcement learning for Ray RLlib.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], None], text: str
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name, help=text, description=text, formatter_class=argparse.RawTextHelpFormatter
        )
        added.set_defaults(run=run)
        added.add_argument("--traceback", action="store_true", help="show where an error came from")
        return added

    for part in (datasets, training, playing, comparison):
        part.add_commands(command)
    return parser


def _explain(error: Exception) -> int:
    # Ray wraps what a remote learner raised, with the remote traceback as its text.
    cause = getattr(error, "cause", None) or error
    _complain(str(cause) or repr(cause))
    diverged = type(cause).__name__ == "DivergenceError"
    return DIVERGED if diverged else USER_ERROR


def _complain(text: str) -> None:
    print(f"rllib-om2p: {text}", file=sys.stderr, flush=True)

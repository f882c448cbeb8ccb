"""What all our command lines share: a foreseeable failure is one line on stderr and an exit code, never a traceback."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from seqlora.errors import SeqLoRAError


def run(app: typer.Typer, program: str, arguments: Sequence[str] | None = None, interrupted: str = "") -> int:
    """Run a command line and return its exit code: 2 for bad usage, 130 for Ctrl-C, that of a `SeqLoRAError`.

    Args:
        app: the commands.
        program: its name in usage errors, e.g. "python -m theory".
        arguments: those of the process if not given.
        interrupted: what to say after Ctrl-C; nothing if the command says it itself.
    """
    try:
        given = None if arguments is None else list(arguments)
        code = app(args=given, standalone_mode=False, prog_name=program)
    except SeqLoRAError as error:
        say(f"error: {error}")
        return error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        code = 130
    except OSError as error:  # the environment, not the code: a device that fails, a folder that vanishes
        place = f" on {error.filename}" if error.filename else ""
        say(f"error: {error.strerror or error}{place}; check the path, its permissions and the free space")
        return 2
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        return _usage(error, program)
    if code == 130 and interrupted:
        say(interrupted)
    return int(code or 0)


def _usage(error: Exception, program: str) -> int:
    """A usage error of click (typer carries a copy of it, so there is no one class to name)."""
    message: str = error.format_message()  # type: ignore[attr-defined]
    if message:  # empty after the help that a call without arguments gets
        say(f"error: {message.rstrip('.')}; see {program} --help")
    return 2


def say(text: str) -> None:
    """Print one line to stderr, whatever names it quotes: line breaks and control characters become spaces."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    print(" ".join(printable.split()), file=sys.stderr, flush=True)

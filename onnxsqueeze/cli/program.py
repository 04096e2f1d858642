"""How a command ends: one line for every failure, and a documented exit code."""

from __future__ import annotations

import io
import sys
from typing import Any, NoReturn

import click

from onnxsqueeze.cli.options import VERBOSE
from onnxsqueeze.cli.outputs import drop_stdout
from onnxsqueeze.cli.signals import INTERRUPTED, MESSAGE, Ended, interruptible, raised
from onnxsqueeze.errors import SqueezeError, one_line

EXIT_CODES = """\b
Exit codes:
  0    done, also when nothing could go; the report then says why
  1    internal error, or a file that cannot be written (full disk)
  2    usage: a wrong option, an output path that cannot be used
  3    unreadable or invalid model
  4    verification failed, or onnxruntime crashed in it; no output is written
  5    a runtime or its converter does not take the model
  6    squeeze: the goal cannot be reached; the best that could be is written
  129  ended by SIGHUP, as when a terminal is closed
  130  interrupted (Ctrl-C)
  141  whoever read the output went away
  143  ended by SIGTERM
"""
_BROKEN_PIPE = 141


class Program(click.Group):
    """A group of commands in which every failure becomes one line on stderr and a documented exit code."""

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Run the program and exit."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # names in a model may be more than the terminal can show
        extra.update(prog_name="onnxsqueeze", standalone_mode=False)
        try:
            with raised():
                code = super().main(*args, **extra)
        except click.UsageError as error:
            hint = f"; see `{error.ctx.command_path} --help`" if error.ctx else ""
            code = complain(error.format_message().rstrip(".?") + hint, error.exit_code)
        except click.ClickException as error:
            code = complain(error.format_message(), error.exit_code)
        except (click.Abort, KeyboardInterrupt):  # in a thread that cannot handle signals
            code = complain(MESSAGE, INTERRUPTED)
        except Ended as error:
            code = complain(str(error), error.code)
        sys.exit(code or 0)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; turn what it raises into an exit code."""
        try:
            with interruptible():
                return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except SqueezeError as error:
            ctx.exit(complain(str(error), error.exit_code))
        except KeyboardInterrupt:
            ctx.exit(complain(MESSAGE, INTERRUPTED))
        except BrokenPipeError:
            drop_stdout()
            ctx.exit(_BROKEN_PIPE)
        except Exception as error:
            ctx.exit(_internal_error(error, ctx))


def complain(message: str, code: int) -> int:
    """Say why a command ends, in one line on stderr, and return the exit code."""
    click.echo(f"onnxsqueeze: error: {' '.join(message.split())}", err=True)
    return code


def _internal_error(error: Exception, ctx: click.Context) -> int:
    hint = "; run again with --verbose for the traceback"
    if ctx.meta.get(VERBOSE):
        import traceback

        traceback.print_exception(error)
        hint = ""
    return complain(f"internal error: {type(error).__name__}: {one_line(error)}{hint}", SqueezeError.exit_code)

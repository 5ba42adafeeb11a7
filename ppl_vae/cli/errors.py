"""Errors and warnings of the command line, each in one line on stderr."""

import copy
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from ppl_vae.cli.allocator import keep_freed_memory
from ppl_vae.cli.outputs import check_output
from ppl_vae.cli.words import in_flags
from ppl_vae.errors import ArgumentError
from ppl_vae.runtime.checks import one_line
from ppl_vae.runtime.memory import memory_in_words

# click's ClickException; some versions of typer bring a copy of click
UsageError: type[Exception] = typer.BadParameter.__mro__[2]
INTERRUPTED = 130
TERMINATED = 143  # 128 and the number of SIGTERM
DEBUG = "debug"
USAGE = (
    ArgumentError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)
RESUMABLE = ("fit", "demo", "evaluate", "compare")


class Terminated(KeyboardInterrupt):
    """The process was asked to end, as by a scheduler that takes the machine back."""


def terminate(number: int, frame: object) -> NoReturn:
    """Stop as at an interrupt, so that files and locks are left in order."""
    raise Terminated


class Commands(TyperGroup):
    """The commands; exit code 1 if a run failed, 2 for bad usage."""

    def main(
        self,
        args: Sequence[str] | None = None,
        *names: Any,
        standalone_mode: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Run a command; bad usage is reported in one line."""
        kwargs["standalone_mode"] = False
        try:
            code = super().main(args, *names, **kwargs)
        except UsageError as error:
            if not standalone_mode:
                raise
            context = getattr(error, "ctx", None)
            said = getattr(error, "format_message", error.__str__)()
            command = context.command_path if context else "ppl-vae"
            complain(f"{one_line(said)} (see {command} --help)", alike=True)
            code = 2
        if standalone_mode:
            sys.exit(code if isinstance(code, int) else 0)
        return code

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command, which takes --debug as well."""
        command = super().get_command(ctx, cmd_name)
        if command is None or command.callback is None:
            return command
        if DEBUG not in {each.name for each in command.params}:
            command.params += [_below(each) for each in self.params if each.name == DEBUG]
            command.callback = _checked(command.callback)
        return command

    def invoke(self, ctx: Any) -> Any:
        """Run a command; its error is reported in one line, or with the traceback after --debug."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, terminate)
        keep_freed_memory()
        try:
            remedy = "ask for smaller sizes, or fewer rows at once"
            with listening(lambda: self._options(ctx)), memory_in_words(remedy):
                return super().invoke(ctx)
        except (typer.Exit, typer.Abort, UsageError, BrokenPipeError):
            raise
        except KeyboardInterrupt as error:
            again = ""
            if ctx.invoked_subcommand in RESUMABLE:
                again = ": run the same command again to resume"
            is_ended = isinstance(error, Terminated)
            typer.echo(f"\n{'terminated' if is_ended else 'interrupted'}{again}", err=True)
            raise typer.Exit(TERMINATED if is_ended else INTERRUPTED) from None
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            # A KeyError's own text has quotation marks; some errors have no text at all.
            said = error.args[0] if isinstance(error, KeyError) and error.args else error
            is_usage = is_config_error(error) or isinstance(error, USAGE)
            told = in_flags(one_line(said), self._options(ctx))
            complain(told or type(error).__name__, alike=is_usage)
            raise typer.Exit(2 if is_usage else 1) from None

    def _options(self, ctx: Any) -> set[str]:
        """The options of the command that runs."""
        command = self.commands.get(ctx.invoked_subcommand, self)
        found = {option for each in command.params for option in each.opts}
        return found - {"--set"} if command.name == "evaluate" else found  # not of training


def _checked(call: Callable[..., Any]) -> Callable[..., Any]:
    """The call of a command, after a look at the file that it writes."""

    @wraps(call)
    def checked(**given: Any) -> Any:
        check_output(given)
        return call(**given)

    return checked


def _below(option: Any) -> Any:
    """An option of the group as one of a command, which sets that of the group."""

    def switch(ctx: Any, _: Any, value: bool) -> None:
        root = ctx.find_root()
        root.params[option.name] = root.params.get(option.name) or value

    found = copy.copy(option)
    found.callback = switch
    found.expose_value = False
    return found


def complain(said: str, *, alike: bool) -> None:
    """Report an error; an error that all processes share is reported by the first process alone."""
    if alike and os.environ.get("LOCAL_RANK", "0") != "0":
        time.sleep(10)  # torchrun ends the others when the first one ends
    typer.echo(f"error: {said}", err=True)


def is_config_error(error: Exception) -> bool:
    """Whether the configuration is wrong; without its module, none has been read."""
    module = sys.modules.get("ppl_vae.experiment.config")
    return module is not None and isinstance(error, module.ConfigError)


class Echo(logging.Handler):
    """The lines of the library's log on stderr, warnings as such, by the options of a command."""

    def __init__(self, options: Callable[[], set[str]]) -> None:
        super().__init__()
        self.options = options

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        if record.levelno >= logging.WARNING:
            self.warn(record.getMessage())
        else:
            typer.echo(record.getMessage(), err=True)

    def warn(self, message: Warning | str, *_: Any, **__: Any) -> None:
        """A warning in one line."""
        typer.echo(f"warning: {in_flags(one_line(message), self.options())}", err=True)


@contextmanager
def listening(options: Callable[[], set[str]]) -> Iterator[None]:
    """Write warnings, of Python and of the library's log, on stderr."""
    logger, echo = logging.getLogger("ppl_vae"), Echo(options)
    logger.addHandler(echo)
    with warnings.catch_warnings():
        warnings.showwarning = echo.warn
        try:
            yield
        finally:
            logger.removeHandler(echo)


@contextmanager
def at_level(level: int, name: str) -> Iterator[None]:
    """The level of a part of the library's log, for a while."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)

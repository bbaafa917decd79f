"""How a command ends: its exit code, and errors that a user can mend told without a traceback. See docs/errors.md.

0 healthy, 1 a FAIL finding, 2 wrong use or bad input, 3 the data cannot say yet, 70 a fault of recspect, 128 + n ended by signal n (130 Ctrl-C, 141 a
closed pipe, 143 terminated).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from recspect.errors import RecspectError

NEEDS_DATA = 3
"""Where a decision was asked for and the data cannot say yet; 0 is ship, 1 is hold (or an experiment that is broken)."""
INTERRUPTED, CLOSED_PIPE, TERMINATED, OUR_FAULT = 130, 141, 143, 70

RESUME = "A training that had finished an epoch can go on: recspect train --resume RUN"


def run(app: Callable[..., Any], console: Any) -> NoReturn:
    """Run the command line and exit.

    Args:
        app: The typer app; called without standalone mode.
        console: A rich console on stderr.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminated)  # as an exception, so that a training notes that it was stopped
    try:
        code = app(standalone_mode=False)  # an exit code where a command ended by typer.Exit or Ctrl-C
        sys.stdout.flush()
    except RecspectError as error:
        fail(console, error.message, error.hint)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        code = CLOSED_PIPE
    except SystemExit as stop:
        code = CLOSED_PIPE if isinstance(stop.__context__, BrokenPipeError) else stop.code
    except MemoryError:
        fail(console, "not enough memory", "fewer rows (--slice does not help: all are read), or a larger machine")
    except OSError as error:
        if not error.filename and not error.errno:
            _our_fault(console)
        fail(console, f"{error.strerror or error}{f': {str(error.filename)[:300]}' if error.filename else ''}",
             "check the path, the right to read and write there, and the room on the disk")
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # wrong use, told by typer
            _wrong_use(console, error)
        if type(error).__name__ == "Abort":
            code = INTERRUPTED
        else:
            _our_fault(console)
    code = code if isinstance(code, int) else 0
    if code in (INTERRUPTED, TERMINATED):
        console.print(f"\n{'Interrupted' if code == INTERRUPTED else 'Terminated'}. {RESUME}", highlight=False, soft_wrap=True)
    if code == CLOSED_PIPE:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more while it ends
    sys.exit(code)


def fail(console: Any, message: str, hint: str) -> NoReturn:
    """Tell an error (what was expected and found) and a hint (what to do), and exit with 2."""
    console.print("[bold red]error:[/bold red]", end=" ")
    console.print(printable(message), markup=False, highlight=False, soft_wrap=True)
    if hint:
        console.print(f"hint:  {printable(hint)}", markup=False, highlight=False, soft_wrap=True)
    sys.exit(2)


def printable(text: str) -> str:
    """The text without characters that would steer a terminal (names of columns are anything) or cannot be written."""
    shown = "".join(letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in text)
    return shown.encode("utf-8", "backslashreplace").decode("utf-8")


def _terminated(_signal: int, _frame: object) -> NoReturn:
    raise SystemExit(TERMINATED)


def _wrong_use(console: Any, error: Any) -> NoReturn:
    if type(error).__name__ == "NoArgsIsHelpError":  # the help was shown already, or is the message
        if error.format_message().strip():
            console.print(error.format_message(), markup=False, highlight=False)
        sys.exit(2)
    context = getattr(error, "ctx", None)
    command = "recspect" if context is None else " ".join(["recspect", *context.command_path.split()[1:]])
    fail(console, error.format_message(), f"{command} --help")


def _our_fault(console: Any) -> NoReturn:
    console.print_exception()
    console.print("This is a fault of recspect, not yours. Please report it with the lines above.")
    sys.exit(OUR_FAULT)  # not exit 1, which means a FAIL finding


__all__ = ["fail", "printable", "run"]

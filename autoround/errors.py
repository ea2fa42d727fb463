"""Errors of the library, each with the exit code its command ends with.

The library raises; only the command line turns an error into a process exit.
Exit codes are part of the public interface and documented in docs/exit-codes.md.
"""

from __future__ import annotations


class AutoRoundError(Exception):
    """Base of every error this library raises on purpose."""

    exit_code = 1


class UsageError(AutoRoundError):
    """An argument or a combination of arguments that cannot be meant."""

    exit_code = 2


class RecipeError(AutoRoundError):
    """One or more mistakes in a recipe; the message lists all of them."""

    exit_code = 3


class ModelError(AutoRoundError):
    """A model that is missing, is not a model, or cannot be quantized."""

    exit_code = 4


class DataError(AutoRoundError):
    """Calibration or evaluation text that is missing, unreadable or too short."""

    exit_code = 5


class DeviceError(AutoRoundError):
    """A device that does not exist here, or whose backend cannot run."""

    exit_code = 6


class FormatError(AutoRoundError):
    """A format that cannot hold what was asked, or a file that breaks its layout."""

    exit_code = 7


class OutputError(AutoRoundError):
    """An output folder that is in the way, not writable, or too small."""

    exit_code = 8


class VerificationError(AutoRoundError):
    """A written result that does not read back as it was in memory."""

    exit_code = 9


class GateError(AutoRoundError):
    """A result that is written, and misses a bound of the gate it was to be held to."""

    exit_code = 10


class UploadError(AutoRoundError):
    """A model that the hub cannot be reached for, or does not take."""

    exit_code = 11


def one_line(error: BaseException, limit: int = 200) -> str:
    """Return an error of somebody else's code as one line.

    Args:
        error: of any kind.
        limit: characters of it at most.
    """
    return " ".join(str(error).split())[:limit] or repr(error)[:limit]


#: The terminal went away, as shells report it (128 + SIGHUP).
HANGUP_EXIT_CODE = 129
#: Ctrl-C, as shells report it (128 + SIGINT).
INTERRUPTED_EXIT_CODE = 130
#: The reader of the output went away, as shells report it (128 + SIGPIPE).
READER_GONE_EXIT_CODE = 141
#: Asked to end, as shells report it (128 + SIGTERM).
TERMINATED_EXIT_CODE = 143

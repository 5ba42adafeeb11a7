"""The errors that the library raises on purpose, each of which is also Python's own kind."""

__all__ = [
    "ArgumentError",
    "DamagedFileError",
    "DataError",
    "DiskFullError",
    "InFileError",
    "InUseError",
    "OtherSettingsError",
    "PplVaeError",
    "TooLargeError",
    "WorkerError",
]


class PplVaeError(Exception):
    """Base of the errors below, of `ConfigError` and of `NonFiniteLossError`.

    Each error below is also the builtin that fits, so that code which catches ValueError or OSError
    catches it as well. A message is one line: the value, its place, and the remedy.

    Example:
        >>> from ppl_vae.runtime.checks import whole_number
        >>> try:
        ...     whole_number(0, "num_particles")
        ... except PplVaeError as error:
        ...     print(error)
        num_particles is 0; it must be a whole number, at least 1
    """


class ArgumentError(PplVaeError, ValueError):
    """An argument has the wrong type or is out of range.

    Example:
        >>> issubclass(ArgumentError, ValueError)
        True
    """


class DataError(PplVaeError, ValueError):
    """The observations cannot be used as they are; the message names row and feature.

    Example:
        >>> issubclass(DataError, ValueError)
        True
    """


class InFileError(DataError, AttributeError):
    """The observations are in a file, and what is done with them needs them in memory.

    Example:
        >>> issubclass(InFileError, DataError)
        True
    """


class DamagedFileError(PplVaeError, ValueError):
    """A file is not what was written: its checksum differs, or it is of another kind.

    Example:
        >>> issubclass(DamagedFileError, ValueError)
        True
    """


class OtherSettingsError(PplVaeError, ValueError):
    """A file from which a call would resume was written with other data or settings.

    Example:
        >>> issubclass(OtherSettingsError, ValueError)
        True
    """


class TooLargeError(PplVaeError, ValueError):
    """What is asked for needs more memory than this machine has; the message gives the size.

    Example:
        >>> issubclass(TooLargeError, ValueError)
        True
    """


class DiskFullError(PplVaeError, OSError):
    """A file could not be written because the disk is full; the former file is left as it was.

    Example:
        >>> issubclass(DiskFullError, OSError)
        True
    """


class InUseError(PplVaeError, OSError):
    """Another process works in the folder of this run.

    Example:
        >>> issubclass(InUseError, OSError)
        True
    """


class WorkerError(PplVaeError, RuntimeError):
    """A process that did part of the work was killed, often for want of memory.

    Example:
        >>> issubclass(WorkerError, RuntimeError)
        True
    """

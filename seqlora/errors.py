"""What bad input raises: one clear line (what, where, what to do) and the exit code it leads to."""

from __future__ import annotations


class SeqLoRAError(Exception):
    """Base of every error that a user can cause and mend; its text is one line and needs no traceback."""

    exit_code = 2


class BadInputError(SeqLoRAError, ValueError):
    """An argument, file or array that cannot be used as it is."""


class CapacityError(BadInputError):
    """More orthogonal directions are asked for than a layer has (claim C6)."""


class NonFiniteError(SeqLoRAError, ArithmeticError):
    """A loss, gradient or activation became NaN or infinite; the cell fails, stored results stay."""

    exit_code = 3


class StoredFileError(SeqLoRAError):
    """A stored file is missing, truncated, of another schema or not the file that its manifest names."""


class DamagedFileError(StoredFileError):
    """A stored file was read, and what it holds is not what was written: it can be set aside and made again."""


class UnwritableError(StoredFileError):
    """A folder that cannot be written or a full disk: no fault of what is being stored, so the run stops."""

"""Every error Grove raises on purpose.

    GroveError
    |-- SettingError          a value the user can mend: raised at start, one line, exit status 2
    |   `-- ContractError     a game breaks a promise of the Game contract
    |-- ModelError            a model file that cannot be used (truncated, other shapes, not safetensors)
    |-- ChannelError          rows could not be exchanged with the inference server
    |   |-- HandshakeError    HELLO was refused: the two sides do not fit together
    |   |-- MessageError      a malformed, oversized or wrongly versioned message
    |   `-- ServerGone        the server stopped answering
    |-- RecordError           a run folder or a game record that cannot be read or written
    |   |-- StorageError      a file that takes no more: the disk is full, read-only or gone
    |   `-- LineError         one line of a log that is no usable game record
    `-- PoolError             workers could not be started or all of them died
"""

from __future__ import annotations


class GroveError(Exception):
    """Base of all errors raised on purpose; its text is one line and says what to do."""


class SettingError(GroveError):
    """A setting that cannot work. The text gives the value, the limit and the remedy."""

    @classmethod
    def of(cls, name: str, value: object, limit: str, remedy: str) -> SettingError:
        """Return the error for setting `name`, worded as value, limit, remedy."""
        return cls(f"{name} is {value!r}, but {limit}; {remedy}")


class ContractError(SettingError):
    """A game breaks a promise of the Game contract; the text names the promise."""


class ModelError(GroveError):
    """A model file that cannot be loaded or does not fit."""


class ChannelError(GroveError):
    """Rows could not be exchanged with the inference server."""


class HandshakeError(ChannelError):
    """The server refused HELLO because the two sides do not fit together."""


class MessageError(ChannelError):
    """A message that is malformed, too large or of another protocol version."""


class ServerGone(ChannelError):
    """The server stopped answering within the stated time."""


class RecordError(GroveError):
    """A run folder or a game record that cannot be read or written."""


class StorageError(RecordError):
    """A file that takes no more: the disk is full or read-only, or the file was removed."""


class LineError(RecordError):
    """A line that is no usable game record.

    `kind`: `torn` (no checksum at its end), `damaged` (the checksum does not fit), `later` (of a later schema),
    `invalid` (the checksum fits, the content does not), `foreign` (JSON that never was a game record), `long` (more
    bytes than are read of a line).
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class PoolError(GroveError):
    """Workers could not be started, or all of them died."""

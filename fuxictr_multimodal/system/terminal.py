"""Output of commands: streams that take any character and survive a closed pipe; a console for verbatim text."""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fuxictr_multimodal.system.writing import ADVICE
from fuxictr_multimodal.text.escape import visible

if TYPE_CHECKING:
    from rich.console import Console

IN_ASCII = "in_ascii"  # name of the handler of characters that an encoding lacks
_STANDARD_ERROR = 2
_ASCII = {"±": "+-", "…": "...", "█": "#", "─": "-"}  # characters of our tables


class _TolerantStream(io.FileIO):
    """A standard stream whose reader may close the pipe, as `head` does: the rest is dropped and the work continues.

    So is what standard error cannot write to a file on a full disk. Standard output is a result: its error names it.
    """

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return memoryview(data).nbytes
        except OSError as error:
            if error.errno not in ADVICE:
                raise
            if self.fileno() == _STANDARD_ERROR:
                return memoryview(data).nbytes
            raise OSError(error.errno, error.strerror, "standard output") from None


def prepare_streams() -> None:
    """Make standard output and error accept any text and survive a closed pipe; commands call this first.

    A character that the encoding lacks is replaced by a similar one in ASCII, or by its escape. Streams that other code
    installed are left alone.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # it was closed by whoever started the process
            nowhere = os.open(os.devnull, os.O_WRONLY)
            setattr(sys, name, os.fdopen(nowhere, "w", encoding="utf-8"))
            continue
        if stream is not getattr(sys, f"__{name}__"):
            continue
        stream.flush()
        raw = getattr(stream.buffer, "raw", stream.buffer)
        if not isinstance(raw, io.FileIO):  # the console of Windows, which writes Unicode by itself
            stream.reconfigure(errors=IN_ASCII)
            continue
        lasting = _TolerantStream(raw.fileno(), "wb", closefd=False)
        lasts = io.TextIOWrapper(
            lasting if raw is stream.buffer else io.BufferedWriter(lasting),
            encoding=stream.encoding,
            errors=IN_ASCII,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        setattr(sys, name, lasts)


def plain_console(**options: Any) -> Console:
    """A rich console that shows text as it is: markup, emoji codes and control characters in a value do nothing.

    On a stream that is not UTF-8, rich draws boxes in ASCII by itself.
    """
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class PlainConsole(Console):
        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                yield segment if segment.control else segment._replace(text=visible(segment.text))

    return PlainConsole(**{"markup": False, "emoji": False, **options})


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(_ASCII.get(c) or c.encode("ascii", "backslashreplace").decode() for c in missing), error.end


codecs.register_error(IN_ASCII, _in_ascii)

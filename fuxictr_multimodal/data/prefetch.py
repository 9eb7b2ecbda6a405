"""Produce the items of an iterator ahead of their consumer, in a background thread."""

from __future__ import annotations

import atexit
import contextlib
import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

Item = TypeVar("Item")

_END = object()


def prefetch(source: Iterable[Item], *, depth: int) -> Generator[Item, None, None]:
    """Yield the items of `source`; a thread makes the next ones meanwhile.

    At most `depth` items are waiting or in the making, so memory is bounded. What `source` raises is raised here,
    after the items that came before. The thread starts with the first item asked for, and it is gone, with
    `source` closed, once this generator is exhausted, closed or dropped.

    Raises:
        ValueError: if `depth` is below 1.

    >>> list(prefetch(range(4), depth=2))
    [0, 1, 2, 3]
    """
    if depth < 1:
        raise ValueError(f"depth is {depth}; at least one item must be made ahead")
    iterator = iter(source)
    done: queue.SimpleQueue = queue.SimpleQueue()
    permits = threading.Semaphore(depth)
    dropped = threading.Event()

    def produce() -> None:
        try:
            with contextlib.ExitStack() as stack:
                if hasattr(iterator, "close"):
                    stack.callback(iterator.close)
                while permits.acquire() and not dropped.is_set():
                    item = next(iterator, _END)
                    if item is _END:
                        break
                    done.put((item, None))
                    # Items can be large: without this the last one lives on while we wait for a permit.
                    del item
        except BaseException as error:  # handed to the consumer, whatever it is
            done.put((_END, error))
        else:
            done.put((_END, None))

    thread = threading.Thread(target=produce, name="prefetch", daemon=True)

    def stop() -> None:
        dropped.set()
        permits.release()
        # The last reference to a generator can die in any thread, in ours too.
        if thread is not threading.current_thread():
            thread.join()

    thread.start()
    # An interpreter that goes down would kill the thread inside some C++ frame, and that aborts the process.
    atexit.register(stop)
    try:
        while True:
            item, error = done.get()
            permits.release()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
            del item
    finally:
        stop()
        atexit.unregister(stop)

"""A prefetched iterator gives what the plain one gives, keeps to its depth, and leaves no thread behind."""

import gc
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest

from fuxictr_multimodal.data.prefetch import prefetch


def threads() -> int:
    return sum(thread.name == "prefetch" for thread in threading.enumerate())


@pytest.mark.parametrize("depth", [1, 2, 50])
def test_gives_the_same_items(depth):
    assert list(prefetch(iter(range(20)), depth=depth)) == list(range(20))
    assert list(prefetch([], depth=depth)) == []
    assert threads() == 0


def test_makes_no_more_than_depth_ahead():
    made, full = [], threading.Event()

    def source():
        for index in range(10):
            made.append(index)
            if index == 3:
                full.set()
            yield index

    items = prefetch(source(), depth=3)
    next(items)
    assert full.wait(10)  # items 1 to 3 were made while the consumer holds item 0
    items.close()
    assert made == [0, 1, 2, 3]


def test_an_error_comes_after_the_items_before_it():
    def source():
        yield 1
        raise RuntimeError("broken")

    items = prefetch(source(), depth=4)
    assert next(items) == 1
    with pytest.raises(RuntimeError, match="broken"):
        next(items)
    assert threads() == 0


def test_nested_sources_are_closed_when_the_consumer_leaves():
    closed = []

    def endless():
        try:
            while True:
                yield 0
        finally:
            closed.append(threading.current_thread().name)

    def doubled():
        for item in prefetch(endless(), depth=2):
            yield 2 * item

    items = prefetch(doubled(), depth=2)
    next(items)
    del items
    gc.collect()
    assert closed == ["prefetch"]
    assert threads() == 0


def test_yielded_items_are_let_go():
    class Item:
        pass

    items = prefetch((Item() for _ in range(3)), depth=1)
    first = weakref.ref(next(items))
    next(items)
    assert first() is None
    items.close()


def test_an_unfinished_iterator_does_not_hold_up_the_end_of_the_program():
    program = (
        "import itertools\n"
        "from fuxictr_multimodal.data.prefetch import prefetch\n"
        "inner = prefetch(itertools.count(), depth=2)\n"
        "outer = prefetch((2 * item for item in inner), depth=2)\n"
        "next(outer)\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_refuses_a_depth_of_zero():
    with pytest.raises(ValueError, match="depth is 0"):
        next(prefetch([1], depth=0))

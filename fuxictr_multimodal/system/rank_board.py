"""What the processes of one training tell each other outside of it: who is here, and why one of them ended.

It is torch's TCP store, which torchrun keeps outside of the processes, so that what a rank wrote outlives it. A rank
that ends with an error says why; one whose connection breaks reads it, and rank 0 prints it, once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from fuxictr_multimodal.errors import ConfigError, InputError, RankLost
from fuxictr_multimodal.system.interruption import Interrupted, ignore_signals

# How long a process looks for the reason of another one, and waits for rank 0 to print it.
REASON_SECONDS = 3.0
PRINTED_SECONDS = 10.0
# How errors begin that only say that another process is gone.
LOST = "another process of this training"
_POLL_SECONDS = 0.05
# How long a process looks for the others when it starts, and after how long it says so.
START_SECONDS = 60.0
QUIET_SECONDS = 10.0


class Board:
    """The store of one group of processes, as one of them sees it.

    Args:
        store: of torch.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(self, store: Any, rank: int, world_size: int) -> None:
        self.store, self.rank, self.world_size = store, rank, world_size

    def fail(self, error: BaseException) -> None:
        """Say why this process ends; of several, the first one counts. Without a connection nothing happens."""
        reason = {"rank": self.rank, "kind": type(error).__name__, "text": str(error)}
        if isinstance(error, KeyboardInterrupt):
            reason["signal"] = int(Interrupted.of(error).number)
        elif not isinstance(error, InputError):
            reason["text"] = f"{type(error).__name__}: {error}"
        with contextlib.suppress(RuntimeError):
            if self.store.add("failures", 1) == 1:
                self.store.set("failure", json.dumps(reason))

    def reason(self, seconds: float = 0.0) -> dict[str, Any] | None:
        """Why another process ended, as soon as it is there, at most so many seconds from now; None without one."""
        with contextlib.suppress(RuntimeError):
            if self._there("failure", seconds):
                return json.loads(self.store.get("failure"))
        return None

    def meet(self, place: str, *, seconds: float | None = None) -> None:
        """Wait until every process is at this place; signals come through, and who fails before it ends the wait.

        Args:
            place: its name.
            seconds: how long to wait at most; by default without end.

        Raises:
            InputError: why another process will not come.
            ConfigError: one has not come in this time.
        """
        key = f"at_{place}"
        self.store.set(f"{key}_{self.rank}", "")
        self.store.add(key, 1)
        begun, quiet = time.monotonic(), True
        while self.store.add(key, 0) < self.world_size:
            if (found := self.reason()) is not None:
                raise ended(found)
            waited = time.monotonic() - begun
            if seconds is not None and waited > seconds:
                raise ConfigError(
                    f"{self._missing(key)} did not start within {seconds:.0f} s: look at the other machines, and start "
                    "all of them again"
                )
            if quiet and waited > QUIET_SECONDS:
                quiet = False
                logging.warning("rank %d waits for %s", self.rank, self._missing(key))
            time.sleep(_POLL_SECONDS)

    def _missing(self, key: str) -> str:
        """The ranks that have not been where others wait."""
        found = [str(rank) for rank in range(self.world_size) if not self.store.check([f"{key}_{rank}"])]
        return f"rank{'s' * (len(found) > 1)} {', '.join(found)}"

    def printed(self, line: str) -> None:
        """Rank 0 has printed this line."""
        with contextlib.suppress(RuntimeError):
            self.store.set("printed", line)

    def printed_line(self) -> str | None:
        """What rank 0 printed; None if it prints nothing for a while."""
        with contextlib.suppress(RuntimeError):
            if self._there("printed", PRINTED_SECONDS):
                return self.store.get("printed").decode()
        return None

    def _there(self, key: str, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while not self.store.check([key]):
            if time.monotonic() >= until:
                return False
            time.sleep(_POLL_SECONDS)
        return True


_boards: dict[tuple[str, ...], Board] = {}
# Where none was found, and what was said of it: nobody waits there twice.
_unreached: dict[tuple[str, ...], str] = {}


def board(rank: int, world_size: int) -> Board:
    """The board of the processes that the environment names; connects at the first call.

    Raises:
        ConfigError: it cannot be reached.
    """
    place = tuple(os.environ[name] for name in ("MASTER_ADDR", "MASTER_PORT"))
    if place in _unreached:
        raise ConfigError(_unreached[place])
    if place not in _boards:
        from torch import distributed

        patience = threading.Timer(
            QUIET_SECONDS,
            logging.warning,
            ("rank %d waits for the other processes at MASTER_ADDR:MASTER_PORT %s", rank, ":".join(place)),
        )
        patience.daemon = True
        patience.start()
        try:
            store, *_ = next(
                distributed.rendezvous("env://", rank, world_size, timeout=timedelta(seconds=START_SECONDS))
            )
        except (RuntimeError, ValueError) as error:
            _unreached[place] = (
                f"rank {rank} does not reach the other processes at MASTER_ADDR:MASTER_PORT {':'.join(place)} "
                f"({str(error).splitlines()[0]})"
            )
            raise ConfigError(_unreached[place]) from None
        finally:
            patience.cancel()
        _boards[place] = Board(store, rank, world_size)
    return _boards[place]


def ended(reason: dict[str, Any]) -> BaseException:
    """What a process raises since another one has ended for this reason."""
    if "signal" in reason:
        return Interrupted(reason["signal"])
    return RankLost(f"rank {reason['rank']} has ended: {reason['text']}")


@contextlib.contextmanager
def losses_named(own: Callable[[], Board | None]) -> Iterator[None]:
    """Turn what torch raises where another process has ended, or does not answer, into an error that says so.

    The launcher then ends every process by a signal: it is ignored from here on, since the error says more.

    Args:
        own: the board of this process; None where it is alone.

    Raises:
        RankLost: with the other process's own reason, if it left one.
        Interrupted: the reason was a signal.
    """
    try:
        yield
    except RuntimeError as error:
        place = own()
        if place is None or not _of_a_connection(error):
            raise
        ignore_signals()
        if (found := place.reason(REASON_SECONDS)) is not None:
            raise ended(found) from None
        if _of_a_timeout(error):
            raise RankLost(
                f"{LOST} did not answer for as long as the setting rank_timeout says: look whether it is stopped or "
                "its machine is overloaded, or raise rank_timeout"
            ) from None
        raise RankLost(f"{LOST} was killed, or its machine cannot be reached") from None


def _of_a_connection(error: RuntimeError) -> bool:
    """Whether an error is of the exchange between processes."""
    from torch import distributed

    words = ("gloo", "nccl", "connection", "socket", "broken pipe")
    return (
        isinstance(error, distributed.DistError)
        or _of_a_timeout(error)
        or any(word in str(error).lower() for word in words)
    )


def _of_a_timeout(error: RuntimeError) -> bool:
    """Whether an error is of a process that did not answer in time.

    gloo says `Timed out waiting` where it waits, and `Application timeout caused pair closure` of what is sent next.
    """
    return any(words in str(error).lower() for words in ("timed out", "timeout caused"))

"""Storage of a study: a file, beside which workers hold locks, or a database server, to which they send heartbeats."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import filelock
import optuna
import sqlalchemy
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.system.files import locked
from fuxictr_multimodal.text.escape import without_passwords

HEARTBEAT_SECONDS = 30
# A machine that is silent for this long is considered lost, by the clock of the server.
GRACE_SECONDS = 120

Owned = Mapping[str, Trial]


class FileStorage:
    """A study in a file: SQLite, or Optuna's journal, which also works on a network file system.

    A worker holds a lock beside the file. The system frees it when the worker dies, on whichever machine.
    """

    def __init__(self, path: Path, *, make: Callable[[Path], optuna.storages.BaseStorage]) -> None:
        self.name = str(path)
        self.worker = uuid.uuid4().hex[:8]
        self._folder = path.parent
        if not self._folder.is_dir():
            raise ConfigError(f"study {path}: the folder {self._folder} does not exist")
        with _readable_errors(self.name, OSError, RuntimeError), self.lock(None):
            self.storage = make(path.resolve())

    def lock(self, study: optuna.Study | None) -> contextlib.AbstractContextManager[object]:
        """One worker draws at a time."""
        return locked(self._folder / ".folder.lock")

    @contextlib.contextmanager
    def working(self, owned: Owned) -> Iterator[None]:
        """Be a worker, whose trials belong to it while this lasts."""
        with _readable_errors(self.name), locked(self._lock_file(self.worker)):
            try:
                yield
            finally:
                self._lock_file(self.worker).unlink()
                if isinstance(self.storage, RDBStorage):
                    # The last connection to close folds the write-ahead log into the file.
                    self.storage.remove_session()
                    self.storage.engine.dispose()

    def own(self, trial: Trial) -> None:
        """Mark a trial as this worker's."""
        trial.set_user_attr("worker", self.worker)

    def retry_lost(self, study: optuna.Study) -> None:
        """Queue the trials of dead workers once more; called under the lock."""
        for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            if not self._is_alive(trial.user_attrs.get("worker")):
                retry(study, trial)

    def _is_alive(self, worker: str | None) -> bool:
        if worker is None:
            return False
        try:
            with locked(self._lock_file(worker), timeout=0):
                self._lock_file(worker).unlink()
        except filelock.Timeout:
            return True
        return False

    def _lock_file(self, worker: str) -> Path:
        return self._folder / f".worker-{worker}.lock"


class ServerStorage:
    """A study on a database server. Optuna's heartbeats tell which trials are of a machine that is lost."""

    def __init__(self, url: sqlalchemy.URL) -> None:
        self.name = without_passwords(url.render_as_string(hide_password=True))
        if url.get_backend_name() == "postgresql":
            # By default, a host that does not answer blocks for minutes.
            url = url.update_query_dict({"connect_timeout": "10", **url.query})
        with _readable_errors(self.name, RuntimeError), warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            connect = functools.partial(
                RDBStorage,
                url.render_as_string(hide_password=False),
                engine_kwargs={"pool_pre_ping": True},
                heartbeat_interval=HEARTBEAT_SECONDS,
                grace_period=GRACE_SECONDS,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
            )
            try:
                for attempts in reversed(range(5)):
                    try:
                        self.storage = connect()
                        break
                    except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError):
                        # Another machine creates the tables at the same moment.
                        if not attempts:
                            raise
                        time.sleep(0.2)
            except ImportError as error:
                driver = getattr(error.__cause__, "name", None) or url.get_driver_name()
                hint = ": pip install 'fuxictr-multimodal[postgresql]'" if driver == "psycopg" else ""
                raise ConfigError(f"study {self.name}: the driver {driver} is not installed{hint}") from None

    @contextlib.contextmanager
    def lock(self, study: optuna.Study) -> Iterator[None]:
        """One worker draws at a time: it holds a row that nothing else touches."""
        row = sqlalchemy.table("study_user_attributes", sqlalchemy.column("study_id"), sqlalchemy.column("key"))
        query = sqlalchemy.select(row.c.key).where(row.c.study_id == study._study_id, row.c.key == "lock")
        if "lock" not in study.user_attrs:
            study.set_user_attr("lock", "held by the worker that draws a trial")
        with self.storage.engine.begin() as connection:
            connection.execute(query.with_for_update()).all()
            yield

    @contextlib.contextmanager
    def working(self, owned: Owned) -> Iterator[None]:
        """Be a worker, whose trials belong to it while this lasts."""
        ended = threading.Event()
        thread = threading.Thread(target=self._send_heartbeats, args=(owned, ended), daemon=True)
        thread.start()
        try:
            with _readable_errors(self.name):
                yield
        finally:
            ended.set()
            thread.join()
            self.storage.remove_session()
            self.storage.engine.dispose()

    def own(self, trial: Trial) -> None:
        """Mark a trial as one of a live worker."""
        self.storage.record_heartbeat(trial._trial_id)

    def retry_lost(self, study: optuna.Study) -> None:
        """Queue the trials of lost machines once more; called under the lock."""
        optuna.storages.fail_stale_trials(study)

    def _send_heartbeats(self, owned: Owned, ended: threading.Event) -> None:
        while not ended.wait(HEARTBEAT_SECONDS):
            for trial in list(owned.values()):
                # The grace period outlasts a server that restarts.
                with contextlib.suppress(optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError):
                    self.own(trial)


StudyStorage = FileStorage | ServerStorage


def open_storage(url: str | None, *, own_file: Path) -> StudyStorage:
    """Open what `--storage` names: a journal as a path or `journal:///path`, or the URL of a database.

    Args:
        url: as SQLAlchemy writes the URL of a database; None is the search's own file.
        own_file: SQLite file of a search that is not shared.

    Raises:
        ConfigError: in one line without passwords: a bad URL, a missing driver, a server or folder that is not there.
    """
    if url is None:
        own_file.parent.mkdir(parents=True, exist_ok=True)
        return FileStorage(own_file, make=_sqlite)
    scheme, separator, rest = url.partition("://")
    if not separator or scheme == "journal":
        return FileStorage(Path(rest if separator else url), make=_journal)
    try:
        parsed = sqlalchemy.make_url(url)
        backend = parsed.get_dialect().name
        if "@" in (parsed.host or ""):
            raise ValueError("the password was cut at its first @")
    except (sqlalchemy.exc.ArgumentError, ValueError):
        raise ConfigError(
            f"--storage {without_passwords(url)} is not a database URL that SQLAlchemy knows: write "
            "postgresql://user@host:5432/database, with special characters of a password as %40"
        ) from None
    if backend != "sqlite":
        return ServerStorage(parsed)
    if not parsed.database:
        raise ConfigError(f"--storage {url} has no file: write sqlite:///study.db")
    return FileStorage(Path(parsed.database), make=_sqlite)


def retry(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue a running trial once more, with its setting; called under the lock."""
    study.tell(trial.number, state=TrialState.FAIL)
    requeue(study, trial)


def requeue(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue a failed trial once more, with its setting; called under the lock."""
    RetryHeartbeatStaleTrialCallback()(study, trial)


def _journal(path: Path) -> JournalStorage:
    try:
        return JournalStorage(JournalFileBackend(str(path)))
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        raise ConfigError(f"study {path} is not an Optuna journal; SQLite is written as sqlite:///{path}") from None


def _sqlite(path: Path) -> RDBStorage:
    """An SQLite file whose transactions outlive a killed process without waiting for the disk at each of them.

    In write-ahead mode a power cut may cost the last of them, never the file; workers wait for each other's.
    """

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(path, timeout=60, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    return RDBStorage("sqlite://", engine_kwargs={"creator": connect})


@contextlib.contextmanager
def _readable_errors(name: str, *more: type[Exception]) -> Iterator[None]:
    """Turn an error of the storage into one line without passwords."""
    try:
        yield
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError, *more) as error:
        cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
        reason = " ".join(str(getattr(cause, "orig", None) or cause).split())
        raise ConfigError(f"study {name} cannot be reached: {without_passwords(reason)}") from None

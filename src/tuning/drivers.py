"""Drivers of a shared study: which of them live, and one at a time at the study.

A driver is a ./run.sh tune with --storage. It holds an advisory lock of PostgreSQL, named after the study and itself,
as long as it lives. The server takes the lock back when the driver's connection ends: at once if the process ends,
however it does, and after half a minute, by probes of TCP, if its machine or the network is gone. No clocks are
compared. A driver that stands still (SIGSTOP) keeps its lock, because its kernel answers the probes.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Collection, Iterator
from types import TracebackType

from sqlalchemy import BigInteger, Connection, Engine, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from src.core.errors import UserError
from src.core.language import _
from src.core.terminal import info

BEAT = 5.0
"""Seconds between two looks of a driver whether it still holds its lock, which a restarted server has forgotten."""
IDLE, INTERVAL, COUNT = 10, 5, 4
"""Probes of a silent connection: seconds until the first, seconds between two, and number that stay unanswered."""
PROBES = {"tcp_keepalives_idle": IDLE, "tcp_keepalives_interval": INTERVAL, "tcp_keepalives_count": COUNT}
"""Settings of a session with which the server finds out that a machine is gone; its own default is two hours."""
OWN_PROBES = {
    "keepalives_idle": IDLE,
    "keepalives_interval": INTERVAL,
    "keepalives_count": COUNT,
    "tcp_user_timeout": 1000 * (IDLE + INTERVAL * COUNT),
}
"""Words of a connection with which a driver finds out the same of the server."""
PATIENCE = 45
"""Seconds that a driver waits for its lock: its last connection may be one of which the server still expects news."""
MOST_ALONE = 300
"""Seconds after which the server ends the connection of a driver that stands still while others wait for it. On a busy
machine half a minute can pass between two statements."""
LOCK_IS_HELD = "55P03"
"""PostgreSQL's code of an error: a lock was not had in time."""


class Drivers:
    """This driver of a study, as a context in which it counts as alive, and what it knows of the others."""

    def __init__(self, engine: Engine, study: str, name: str):
        """`name`: name of this driver, the same each time it is started."""
        self._engine, self._study, self._name = engine, study, name
        self._presence: Connection | None = None
        self._alone: Connection | None = None
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._stay, daemon=True)

    def __enter__(self) -> Drivers:
        """Raises UserError where a driver of the same name lives."""
        try:
            self._presence = self._present(tell=True)
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != LOCK_IS_HELD:
                raise
            raise UserError(
                _(
                    "study {study}: another ./run.sh tune of {name} works on it. Choose another output folder: "
                    "paths.output=DIR"
                ).format(study=self._study, name=self._name)
            ) from None
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.set()
        self._thread.join(BEAT)
        if self._presence is not None and not self._thread.is_alive():  # else it waits for a server that is gone
            self._presence.close()

    @contextlib.contextmanager
    def alone(self, trial: int | None = None) -> Iterator[None]:
        """Keeps all other drivers of the study away from what is done meanwhile to the number of trials and to their
        owners, or to `trial`; waits for one that is at it."""
        with self._engine.begin() as connection:
            connection.execute(text(f"SET LOCAL idle_in_transaction_session_timeout = '{MOST_ALONE}s'"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _key(self._study, _about(trial))})
            self._alone = connection
            try:
                yield
            finally:
                self._alone = None

    def gone(self, names: Collection[str]) -> set[str]:
        """Returns those drivers of `names` that do not live. Within alone(), at whose end they may come back."""
        if self._alone is None:
            raise RuntimeError("gone() is for alone()")
        keys = {_key(self._study, name): name for name in names}
        question = text("SELECT key FROM unnest(:keys) AS key WHERE pg_try_advisory_xact_lock(key)")
        typed = question.bindparams(bindparam("keys", type_=ARRAY(BigInteger)))
        return {keys[key] for (key,) in self._alone.execute(typed, {"keys": list(keys)})} if keys else set()

    def keeps(self, trial: int) -> bool:
        """Keeps other drivers from writing to a trial until the end of alone(). Returns False if one is at it."""
        if self._alone is None:
            raise RuntimeError("keeps() is for alone()")
        key = {"key": _key(self._study, _about(trial))}
        return bool(self._alone.execute(text("SELECT pg_try_advisory_xact_lock(:key)"), key).scalar())

    def _present(self, tell: bool = False) -> Connection:
        """Returns a new connection that holds the lock of this driver."""
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        connection.detach()  # closed, it does not go back to the pool with its lock
        key = {"key": _key(self._study, self._name)}
        try:
            for name, value in PROBES.items():
                connection.execute(text(f"SET {name} = {value}"))
            if not connection.execute(text("SELECT pg_try_advisory_lock(:key)"), key).scalar():
                if tell:
                    info(
                        _(
                            "study {study}: waits for an earlier ./run.sh tune of {name}, which is still connected"
                        ).format(study=self._study, name=self._name)
                    )
                connection.execute(text(f"SET lock_timeout = '{PATIENCE}s'"))
                connection.execute(text("SELECT pg_advisory_lock(:key)"), key)
        except BaseException:
            connection.close()
            raise
        return connection

    def _stay(self) -> None:
        """Takes the lock anew where the connection was lost. While it cannot, the study cannot be read either, which
        the command tells."""
        while not self._ends.wait(BEAT):
            try:
                if self._presence is None:
                    self._presence = self._present()
                else:
                    self._presence.execute(text("SELECT 1"))
            except SQLAlchemyError:
                lost, self._presence = self._presence, None
                if lost is not None:
                    with contextlib.suppress(SQLAlchemyError):
                        lost.close()


def _about(trial: int | None) -> str:
    return "all trials" if trial is None else f"trial {trial}"


def _key(*names: str) -> int:
    """Number of an advisory lock, which has 64 bits."""
    return int.from_bytes(hashlib.sha256("\0".join(names).encode()).digest()[:8], signed=True)

"""The pools of the program: made when they are first needed, shared by all runs, warm between them."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, ClassVar

from pmflow.config import ProcessType
from pmflow.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmflow.executors.base import Executor, Port, Session
    from pmflow.executors.threads import ThreadPool
    from pmflow.executors.workers import WorkerPool
    from pmflow.limits import Cores

__all__ = ["WorkflowPoolManager"]

MOST_THREADS = 32

_lock = threading.Lock()


def _renew_lock() -> None:
    """Forget who holds the lock and the cores, in a forked child: they are not here."""
    global _lock  # noqa: PLW0603 - a lock cannot be emptied
    _lock = threading.Lock()
    _cores.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)
_threads: list[ThreadPool] = []
_workers: list[WorkerPool] = []
_cores: list[Cores] = []


def thread_slots() -> int:
    """Return how many calls run in threads at once: as many as cores and four more, at most 32."""
    from pmflow.executors.platform import cores

    return min(MOST_THREADS, cores() + 4)


def thread_pool() -> ThreadPool:
    """Return the program's threads."""
    with _lock:
        if not _threads:
            from pmflow.executors.threads import ThreadPool

            _threads.append(ThreadPool(thread_slots()))
    return _threads[0]


def worker_pool() -> WorkerPool:
    """Return the program's workers: as many as cores it may use; in a worker, one in place of that worker itself."""
    with _lock:
        if not _workers:
            from pmflow.executors.platform import cores, in_worker
            from pmflow.executors.workers import WorkerPool

            _workers.append(WorkerPool(1 if in_worker() else cores()))
    return _workers[0]


def program_cores() -> Cores:
    """Return the cores that calls of the program share; in a worker, the one of that worker."""
    with _lock:
        if not _cores:
            from pmflow.executors.platform import cores, in_worker
            from pmflow.limits import Cores

            _cores.append(Cores(1 if in_worker() else cores()))
    return _cores[0]


def check_slots(value: Any, name: str) -> None:
    """Refuse what is no number of threads or workers; None is the default.

    Raises:
        ConfigurationError: naming the argument.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ConfigurationError(f"{name} must be a whole number, 1 or more, not {value!r}", setting=name)


class WorkflowPoolManager:
    """Hands out the program's pools. Pools outlive a run and are shared; an id's limits are its own.

    >>> manager = WorkflowPoolManager.get_instance()
    >>> pools = manager.get_or_create_pools("nightly", max_threads=2)
    >>> sorted(kind.value for kind in pools)
    ['process', 'thread']
    >>> manager.cleanup_pools("nightly")
    """

    _instance: ClassVar[WorkflowPoolManager | None] = None

    def __init__(self) -> None:
        self._pools: dict[str, dict[ProcessType, Executor]] = {}

    @classmethod
    def get_instance(cls) -> WorkflowPoolManager:
        """Return the program's one manager."""
        if cls._instance is None:
            cls._instance = cls()
        return cls._instance

    def get_or_create_pools(
        self, process_id: str, max_threads: int | None = None, max_processes: int | None = None
    ) -> dict[ProcessType, Executor]:
        """Return the pools of an id by strategy: the program's, as far as the id may use them.

        Args:
            process_id: whose they are.
            max_threads: at most so many threads at once for each run in them.
            max_processes: at most so many workers at once for each run in them.

        Raises:
            ConfigurationError: a number that is none.
        """
        check_slots(max_threads, "max_threads")
        check_slots(max_processes, "max_processes")
        pools = self._pools.get(process_id)
        if pools is None:
            pools = self._pools[process_id] = {
                ProcessType.THREAD: _Share(thread_pool, max_threads),
                ProcessType.PROCESS: _Share(worker_pool, max_processes),
            }
        return pools

    def cleanup_pools(self, process_id: str) -> None:
        """Forget an id; the program's pools stay warm for the others."""
        self._pools.pop(process_id, None)


class _Share:
    """A pool of the program, of which a run may use so many places; the pool is made when it is first used."""

    def __init__(self, pool: Callable[[], Executor], slots: int | None) -> None:
        self._pool = pool
        self._slots = slots

    def open(self, port: Port, slots: int | None = None) -> Session:
        """Begin a run."""
        bounds = [bound for bound in (self._slots, slots) if bound is not None]
        return self._pool().open(port, min(bounds, default=None))

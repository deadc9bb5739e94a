"""The pools of the program: made when they are first needed, shared by all runs, warm between them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, ClassVar

from pmflow.config import ProcessType
from pmflow.errors import ConfigurationError

if TYPE_CHECKING:
    from pmflow.executors.base import Executor
    from pmflow.executors.threads import ThreadPool
    from pmflow.executors.workers import WorkerPool

__all__ = ["WorkflowPoolManager"]

MOST_THREADS = 32

_lock = threading.Lock()
_threads: list[ThreadPool] = []
_workers: list[WorkerPool] = []


def thread_pool() -> ThreadPool:
    """Return the program's threads: as many as cores and four more, at most 32."""
    with _lock:
        if not _threads:
            from pmflow.executors.platform import cores
            from pmflow.executors.threads import ThreadPool

            _threads.append(ThreadPool(min(MOST_THREADS, cores() + 4)))
    return _threads[0]


def worker_pool() -> WorkerPool:
    """Return the program's workers: as many as cores it may use; in a worker, one in place of that worker itself."""
    with _lock:
        if not _workers:
            from pmflow.executors.platform import cores, in_worker
            from pmflow.executors.workers import WorkerPool

            _workers.append(WorkerPool(1 if in_worker() else cores()))
    return _workers[0]


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
        self._limits: dict[str, tuple[int | None, int | None]] = {}

    @classmethod
    def get_instance(cls) -> WorkflowPoolManager:
        """Return the program's one manager."""
        if cls._instance is None:
            cls._instance = cls()
        return cls._instance

    def get_or_create_pools(
        self, process_id: str, max_threads: int | None = None, max_processes: int | None = None
    ) -> dict[ProcessType, Executor]:
        """Return the pools by strategy.

        Args:
            process_id: whose they are.
            max_threads: at most so many threads at once for this id, from now on.
            max_processes: at most so many workers at once for this id, from now on.

        Raises:
            ConfigurationError: a number that is none.
        """
        check_slots(max_threads, "max_threads")
        check_slots(max_processes, "max_processes")
        self._limits.setdefault(process_id, (max_threads, max_processes))
        return {ProcessType.THREAD: thread_pool(), ProcessType.PROCESS: worker_pool()}

    def limits(self, process_id: str) -> tuple[int | None, int | None]:
        """Return the most threads and the most workers of an id; None where nothing was said."""
        return self._limits.get(process_id, (None, None))

    def cleanup_pools(self, process_id: str) -> None:
        """Forget an id; the program's pools stay warm for the others."""
        self._limits.pop(process_id, None)

"""What hooks receive."""

from __future__ import annotations

import threading
from datetime import datetime
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Literal

from attrs import frozen

from pmflow.outcomes import ProcessState
from pmflow.results import ProcessResult

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Event"]

WAIT = 1.0
"""Seconds that a run waits for its hooks at its end."""


@frozen
class Event:
    """Something that happened in a run. A hook is a callable that takes one.

    Attributes:
        kind: what happened.
        time: when it happened (aware).
        run_id: in which run.
        process_id: to which process; an element of a mapped process as ``"page_3"``. None for the run itself.
        state: the state it is in from then on.
        attempt: which attempt (1, 2, ...).
        result: how it ended, or how the attempt failed that is retried.
        progress: how far it says it has got, from 0 to 100.
        message: what it says it is at.

    >>> import pmflow
    >>> seen = []
    >>> run = pmflow.run(pmflow.process(lambda: 1, id="one"), hooks=[seen.append])
    >>> [event.kind for event in seen]
    ['run_started', 'process_started', 'process_ended', 'run_ended']
    """

    kind: Literal[
        "run_started", "process_started", "process_progress", "process_retrying", "process_ended", "run_ended"
    ]
    time: datetime
    run_id: str
    process_id: str | None = None
    state: ProcessState | None = None
    attempt: int | None = None
    result: ProcessResult[Any] | None = None
    progress: float | None = None
    message: str | None = None


class Announcer:
    """Tells hooks what happens, on a daemon thread of its own, in order.

    A hook that raises is logged and not called again. `close` waits for at most a second: a slow hook loses events, not
    the run its time.
    """

    def __init__(self, hooks: Sequence[Callable[[Event], object]], run_id: str) -> None:
        self._hooks = list(hooks)
        self._run_id = run_id
        self._queue: SimpleQueue[Event | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._tell, name=f"pmflow-hooks-{run_id}", daemon=True)
        self._thread.start()

    def announce(self, kind: Any, moment: datetime, **facts: Any) -> None:
        """Tell the hooks, soon."""
        self._queue.put(Event(kind, moment, self._run_id, **facts))

    def close(self) -> None:
        """Wait until the hooks have been told everything, or for a second."""
        self._queue.put(None)
        self._thread.join(WAIT)

    def _tell(self) -> None:
        while (event := self._queue.get()) is not None:
            for hook in self._hooks:
                try:
                    hook(event)
                except BaseException:
                    import logging

                    logging.getLogger("pmflow").exception(
                        "the hook %r raised at %s of run %s; it is not called again", hook, event.kind, event.run_id
                    )
                    self._hooks = [other for other in self._hooks if other is not hook]

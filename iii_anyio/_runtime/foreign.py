"""Event loops beside the worker's, on which callers wait.

Waking the other loop's thread costs more than a call, and takes the interpreter away from whoever has it. So calls and
answers are not handed over one by one while more are under way: what came together by the end of a turn goes as one.
(Blocked threads gain nothing from it: they have no turns, and each has to be woken by itself.)

Below: ``mailbox``. Above: ``calling``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ..errors import WorkerStateError
from .mailbox import Mailbox

if TYPE_CHECKING:
    from .._protocol.calls import Call
    from .._wire.backend import Backend

__all__ = ("ForeignLoop",)

logger: Final = logging.getLogger("iii_anyio")


class ForeignLoop:
    """One of them. To be made on it.

    Args:
        worker: The mailbox of the worker's loop.
        home: What the worker's loop offers.
        submit: Submits a call; runs on the worker's loop.
    """

    def __init__(self, worker: Mailbox, home: Backend, submit: Callable[[Call], None]) -> None:
        self.mailbox: Mailbox = Mailbox()
        self._worker = worker
        self._home = home
        self._submit = submit
        self._waiting = 0
        self._calls: list[Call] = []  # touched on this loop only
        self._wakes: list[Callable[[], None]] = []  # touched on the worker's loop only

    # Here

    async def call(self, call: Call, here: Backend) -> Any:
        """Have a call submitted and wait for what it comes to."""
        answered = here.new_slot()
        call.wake = lambda: self._wake_soon(answered.wake)
        self._waiting += 1
        try:
            if self._waiting == 1:
                self._worker.post(self._submit, call)
            else:
                self._calls.append(call)
                if len(self._calls) == 1:
                    here.soon(self._hand_over)
            await answered.wait()
        finally:
            self._waiting -= 1
        return call.value()

    def _hand_over(self) -> None:
        calls, self._calls = self._calls, []
        try:
            self._worker.post(self._submit_all, calls)
        except WorkerStateError as exc:
            for call in calls:
                call.end(error=exc)

    # On the worker's loop

    def _submit_all(self, calls: list[Call]) -> None:
        for call in calls:
            self._submit(call)

    def _wake_soon(self, wake: Callable[[], None]) -> None:
        self._wakes.append(wake)
        if self._waiting == 1:
            self.wake_all()
        elif len(self._wakes) == 1:
            self._home.soon(self.wake_all)

    def wake_all(self) -> None:
        """Wake everybody whose call has ended."""
        wakes, self._wakes = self._wakes, []
        if not wakes:  # they were woken before the turn's end
            return
        try:
            self.mailbox.post(_run_all, wakes)
        except WorkerStateError:  # that loop has ended, and its callers with it
            logger.debug("the callers of %d calls have gone", len(wakes))


def _run_all(wakes: list[Callable[[], None]]) -> None:
    for wake in wakes:
        wake()

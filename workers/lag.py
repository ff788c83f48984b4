"""Who blocks the event loop: a thread that asks the loop for a sign of life, and shows its stack when none comes.

The loop itself can't tell, for it is what is blocked; and what the supervisor sees, a worker that has not vouched for itself
within `timeout`, comes late. The thread sleeps nearly always: it asks once in each `loop_lag_warning`.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING

from arbiter.workers.contract import client_name

if TYPE_CHECKING:
    from arbiter.workers.site import Activity, Site


class LagWatch:
    """Watches the loop of a site; made and ended on the loop's thread."""

    def __init__(self, site: Site, patience: float) -> None:
        """`patience`: seconds that the loop may take to answer."""
        self._site = site
        self._patience = patience
        self._loop_thread = threading.get_ident()
        self._is_over = threading.Event()
        self._answered = threading.Event()
        self._reported = False
        self._thread = threading.Thread(target=self._watch, name="arbiter-lag", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Watch no more."""
        self._is_over.set()
        self._answered.set()
        self._thread.join(1.0)

    def _watch(self) -> None:
        while not self._is_over.wait(self._patience):
            asked = time.monotonic()
            self._answered.clear()
            try:
                self._site.loop.call_soon_threadsafe(self._answer)
            except RuntimeError:
                return  # the loop is closed
            if not self._answered.wait(self._patience) and not self._is_over.is_set():
                self._report(time.monotonic() - asked)
                self._answered.wait()

    def _answer(self) -> None:
        """On the loop's thread: it goes on."""
        if self._reported:
            self._reported = False
            self._site.row.rest()
        self._answered.set()

    def _report(self, seconds: float) -> None:
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - documented, in spite of its name
        stack = "".join(traceback.format_stack(frame)).rstrip() if frame else "its thread is gone"
        culprit = self._culprit()
        who = ""
        if culprit is not None:
            request = culprit.request
            client = culprit.scope.get("client")
            self._reported = True
            self._site.row.begin(request.method, request.target, client_name(tuple(client) if client else None))
            who = f" by {culprit.name}"
        self._site.log.warning(
            f"the event loop has been blocked for {seconds:.1f} s{who}: nobody else is served. It is at:\n{stack}"
        )

    def _culprit(self) -> Activity | None:
        """The request whose task is running, if it is one's."""
        try:
            task = asyncio.current_task(self._site.loop)
            running = [*self._site.active, *self._site.sockets]
        except RuntimeError:
            return None  # the loop goes on
        return next((activity for activity in running if task is not None and activity.task is task), None)

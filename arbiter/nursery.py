"""Templates: processes that have loaded a generation's application once, and fork its workers (`preload_app`).

Neither the policy nor the loop knows of them: they want a worker, and hear of it what they would hear of any. The theory:

* One template per generation, forked when its first worker is wanted, and anew when it has died. It lives until its
  generation is forgotten, so what it has loaded outlives whatever happens to the files on disk.
* A worker is *unborn* from the wish to the message `Born`, and shares its template's fate meanwhile: when the template's boot
  fails, each worker that waits has failed so, and exits when the template does. Trial, refusal and back-off need no more.
* A worker is forked by a process between, which leaves at once: so its parent is the supervisor, which reaps it like any.

Rules: nothing here waits, `close` excepted; a template that still boots and that nobody waits for is killed, as is one that
owes a worker which must end; a template dies by SIGKILL, there is nothing in it to be finished.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from dataclasses import dataclass, field
from signal import Signals
from typing import TYPE_CHECKING

from arbiter import facts
from arbiter.child import Process, await_end, exited, signal_name
from arbiter.workers.contract import MAX_MESSAGE, Born, ChannelError, Decoder, Failed, NotBorn, Ready, Spawn, encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from arbiter.blueprint import Blueprint
    from arbiter.child import Unborn
    from arbiter.facts import Fact
    from arbiter.signals import Command
    from arbiter.workers.contract import Message, WorkerId


@dataclass(slots=True, kw_only=True, eq=False)
class Template(Process):
    """A process that forks the workers of one generation."""

    blueprint: Blueprint
    is_ready: bool = False
    """Whether the application is loaded: workers are ordered at once, and no longer wait here."""
    expected: dict[int, Unborn] = field(default_factory=dict)
    """Those that wait to be ordered or, when it is ready, have been; by their spawn number."""


class Nursery:
    """The templates of one supervisor, and the workers that they have not borne yet."""

    def __init__(
        self,
        epoll: select.epoll,
        happened: list[Fact | Command],
        *,
        fork: Callable[[Unborn], Template],
        adopt: Callable[[Unborn, int], None],
        lose: Callable[[Unborn, int], None],
    ) -> None:
        """Where it reads and writes, and whom it calls.

        Args:
            epoll: where channels are registered; `listen` is to be called when one is readable.
            happened: facts about unborn workers are appended to it.
            fork: forks a template for an unborn worker's generation, or raises OSError.
            adopt: takes over a worker that has been born, with its pid.
            lose: lets go of what was made for a worker that will not be born by the template with this pid.

        """
        self._epoll = epoll
        self._happened = happened
        self._fork, self._adopt, self._lose = fork, adopt, lose
        self._useful: dict[int, Template] = {}
        """By generation: those of which workers may be wanted."""
        self._living: dict[int, Template] = {}
        """By pid: all that have not been reaped."""
        self._by_channel: dict[int, Template] = {}

    # What the kernel asks ---------------------------------------------------------------------------------------------

    def want(self, unborn: Unborn) -> None:
        """Have a worker forked by its generation's template: now, or as soon as that is ready.

        Raises:
            OSError: there is no template and none can be forked; nothing has changed.
        """
        number = unborn.blueprint.number
        template = self._useful.get(number)
        if template and template.is_ready and not _order(template, unborn):
            self._end(template)  # it has died just now, or has not read hundreds of orders
            template = None
        if not template:
            template = self._fork(unborn)
            template.channel.setblocking(False)
            self._useful[number] = self._living[template.pid] = template
            self._by_channel[template.channel.fileno()] = template
            self._epoll.register(template.channel, select.EPOLLIN)
        template.expected[unborn.id.spawn] = unborn

    def listen(self, fd: int) -> bool:
        """Read the channel of a template; False if this is none."""
        if not (template := self._by_channel.get(fd)):
            return False
        try:
            while data := template.channel.recv(MAX_MESSAGE):
                for message in Decoder().feed(data):  # a packet is one whole message
                    self._hear(template, message)
        except BlockingIOError:
            return True
        except (OSError, ChannelError):
            pass  # as good as its end
        self._hang_up(template)
        return True

    def kill(self, id: WorkerId, number: Signals) -> None:  # noqa: A002 - its name everywhere
        """End a worker that has not been born; nothing if there is no such."""
        if not (found := self._find(id)):
            return
        template, unborn = found
        if template.is_ready:
            unborn.signal = number  # it may be on its way: it gets this with its birth
            if number is Signals.SIGKILL:
                self._end(template)  # the order was not answered in all the time that there was
            return
        del template.expected[id.spawn]
        self._lose(unborn, template.pid)
        self._happened.append(facts.Exited(id, None, number.name))
        if not template.expected:
            self._end(template)

    def mother(self, id: WorkerId) -> Template | None:  # noqa: A002
        """The template that is to bear this worker."""
        found = self._find(id)
        return found[0] if found else None

    def tell_all(self, message: Message) -> None:
        """Send a message to all templates, and to all workers that they have not borne: those hear it when they live."""
        line = encode(message)
        for template in self._living.values():
            for channel in (template.channel, *(unborn.wires.ours for unborn in template.expected.values())):
                try:
                    channel.send(line, socket.MSG_DONTWAIT)
                except OSError:
                    pass  # full or closed: it is at its end anyway

    def forget(self, generation: int) -> None:
        """No more workers of this generation are wanted: end its templates."""
        for template in [found for found in self._living.values() if found.blueprint.number == generation]:
            self._end(template)

    @property
    def is_expecting(self) -> bool:
        """Whether a worker may live that we don't know the pid of."""
        return any(template.is_ready and template.expected for template in self._living.values())

    def find(self, pid: int) -> Template | None:
        """The living template with this pid."""
        return self._living.get(pid)

    def bury(self, template: Template, code: int, *, out_of_memory: bool) -> None:
        """A template has been reaped, with this exit status (or, negative, this signal)."""
        if template.channel.fileno() >= 0:
            self.listen(template.channel.fileno())
        if template.is_ready and not template.was_killed:
            how = f"was killed by {signal_name(-code)}" if code < 0 else f"exited with status {code}"
            how += " by the kernel, out of memory" if out_of_memory else ""
            text = f"the template {how}. The workers that live serve on; the next one has the application loaded anew."
            template.blueprint.log.write("warning", text, template.pid)
        self._hang_up(template)
        del self._living[template.pid]
        for unborn in template.expected.values():
            self._lose(unborn, template.pid)
            self._happened.append(exited(unborn.id, code, out_of_memory=out_of_memory))
        template.close()

    def leave(self) -> None:
        """In a child, right after its fork: close what is the supervisor's."""
        for template in self._living.values():
            template.close()
            for unborn in template.expected.values():
                unborn.wires.close()

    def close(self) -> None:
        """End all templates, and let go of them."""
        for template in list(self._living.values()):
            self._end(template)
        for template in self._living.values():
            await_end(template.pid)
        self.leave()

    # What templates say -----------------------------------------------------------------------------------------------

    def _hear(self, template: Template, message: Message) -> None:
        match message:
            case Ready():
                template.is_ready = True
                for waiting in template.expected.values():
                    _order(template, waiting)  # if it could not be sent, the template is dead: `bury` tells
            case Failed(phase, error, traceback, code):
                self._disown(template)
                self._happened += [
                    facts.SaidFailed(waiting.id, phase, error, traceback, code) for waiting in template.expected.values()
                ]
            case Born(spawn, pid):
                if unborn := template.expected.pop(spawn, None):
                    self._adopt(unborn, pid)
            case NotBorn(spawn, error):
                if unborn := template.expected.pop(spawn, None):
                    self._lose(unborn, template.pid)
                    self._happened.append(facts.NotForked(unborn.id, error))
            case _:
                pass  # a word of ours to them, from them: nothing to learn

    # Hands ------------------------------------------------------------------------------------------------------------

    def _find(self, id: WorkerId) -> tuple[Template, Unborn] | None:  # noqa: A002
        for template in self._living.values():
            if unborn := template.expected.get(id.spawn):
                return template, unborn
        return None

    def _end(self, template: Template) -> None:
        """Kill a template; it is of no use from now on."""
        self._disown(template)
        template.was_killed = True
        os.kill(template.pid, signal.SIGKILL)  # not reaped yet, so the pid is still its own

    def _disown(self, template: Template) -> None:
        if self._useful.get(template.blueprint.number) is template:
            del self._useful[template.blueprint.number]

    def _hang_up(self, template: Template) -> None:
        """Its channel is at its end: it is exiting, or can't be talked to any more."""
        self._disown(template)
        if self._by_channel.pop(template.channel.fileno(), None):
            self._epoll.unregister(template.channel)
            template.channel.close()


def _order(template: Template, unborn: Unborn) -> bool:
    """Send the order for a worker, and with it what is the worker's own; whether that was possible."""
    wires = unborn.wires
    message = encode(Spawn(*unborn.id, unborn.place))
    try:
        socket.send_fds(template.channel, [message], [wires.theirs.fileno(), wires.dump, wires.lifeline])
    except OSError:
        return False
    wires.close_theirs()
    return True

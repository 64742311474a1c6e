"""Calls between agents, relayed by the server: a method's name and JSON there, JSON or an error back.

Either agent and the server may die in the middle. So a caller that hears nothing asks again: a call that is under way
is waited for, a reply that was lost is sent again, and a call that nobody knows any more is made anew if it may be
made twice, else it has failed.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, Queue
from typing import Any, Final

from ergosphere import system
from ergosphere.agent.link import ServerAway, ServerLink
from ergosphere.system import Clock
from ergosphere.wire.agents import Mail

CALL_TIMEOUT_S: Final = 600.0  # a dump of a very large rank; the keepers' deadline ends it sooner
CALLS_OPEN_MAX: Final = 1000
ASK_AGAIN_S: Final = 2.0  # after which silence makes a caller ask what became of its call
NODE_AWAY_S: Final = 6.0  # for so long the server says that a node is not there: then nobody will answer
NOT_THERE, TOO_BIG, NOT_UNDERSTOOD = 404, 413, 422
REPLIES_KEPT: Final = 200
REPLY: Final = ""  # the method of a reply
ASKED: Final = "?"  # the method of the question what became of a call
REPEATABLE: Final = frozenset({
    "phase", "begun", "begin", "run", "held", "holdable", "rank", "suspend", "examine", "discard", "release",
    "forget", "retire", "settle", "end", "arrange", "arrangement", "left", "ask_to_leave", "keep_files",
})  # fmt: skip

Body = dict[str, Any]


class CallFailed(Exception):
    """The other agent said no, or nothing; the fields are as the other side judged it (see `ports.Refused`)."""

    def __init__(self, text: str, body: Body | None = None) -> None:
        super().__init__(text)
        told = body or {}
        self.remedy: str = told.get("remedy", "")
        self.lasting: bool = told.get("lasting", False)
        self.exit_code: int | None = told.get("exit_code")
        self.kind: str = told.get("kind", "")


@dataclass(slots=True)
class Mailbox:
    """Sends calls and matches replies; incoming calls are handed to `serve`, each in a thread of its own."""

    link: ServerLink
    serve: Callable[[str, Body], Body]
    clock: Clock = field(default_factory=system.SystemClock)
    _waiting: dict[str, Queue[Body]] = field(default_factory=dict)
    _serving: set[str] = field(default_factory=set)
    _replies: OrderedDict[str, Body] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    # ── calling ──────────────────────────────────────────────────────────────────────────────────────────────

    def call(self, node: str, method: str, body: Body, timeout_s: float = CALL_TIMEOUT_S) -> Body:
        """Ask the agent of `node`; raises CallFailed with its words, or when nothing comes back in time."""
        assert len(self._waiting) < CALLS_OPEN_MAX, "calls are leaking"
        call = Mail(to=node, sender=self.link.node, call_id=system.short_id(), method=method, body=body)
        replies: Queue[Body] = Queue()
        self._waiting[call.call_id] = replies
        try:
            reply = self._see_through(call, replies, self.clock.monotonic() + timeout_s)
        finally:
            del self._waiting[call.call_id]
        if "error" in reply:
            raise CallFailed(reply["error"], reply)
        return reply

    def _see_through(self, call: Mail, replies: Queue[Body], until_s: float) -> Body:
        asked = call.model_copy(update={"method": ASKED, "body": {}})
        mail, there_s = call, self.clock.monotonic()
        while self.clock.monotonic() < until_s:
            status = self._post(mail)
            mail = asked if status is None else mail
            if status != NOT_THERE:
                there_s = self.clock.monotonic()
            if status in (TOO_BIG, NOT_UNDERSTOOD) or self.clock.monotonic() > there_s + NODE_AWAY_S:
                raise CallFailed(f"{call.method!r} did not get there: the server answers {status}")
            try:
                reply = replies.get(timeout=ASK_AGAIN_S)
            except Empty:
                continue
            if not reply.get("unknown"):
                return reply
            if call.method not in REPEATABLE:
                raise CallFailed(f"its agent or the server was restarted in the middle of {call.method!r}")
            mail = call
        raise CallFailed(f"{call.to} did not answer {call.method!r} in time")

    def _post(self, mail: Mail) -> int | None:
        """Hand a piece of mail to the server. None when it took it; else its answer, 0 while it is away."""
        try:
            self.link.mail(mail)
        except ServerAway as away:
            return away.status or 0
        return None

    # ── being called ─────────────────────────────────────────────────────────────────────────────────────────

    def receive(self, mail: Mail) -> None:
        """Take one piece of mail: a reply wakes its caller, a call is served once however often it comes."""
        if mail.method == REPLY:
            waiting = self._waiting.get(mail.call_id)
            if waiting is not None:
                waiting.put(mail.body)
            return
        with self._lock:
            if mail.call_id in self._serving:
                return
            known = self._replies.get(mail.call_id)
            if known is None and mail.method != ASKED:
                self._serving.add(mail.call_id)
        if known is None and mail.method == ASKED:
            known = {"unknown": True}
        work, arguments = (self._serve, (mail,)) if known is None else (self._reply, (mail, known))
        threading.Thread(target=work, args=arguments, daemon=True, name=f"mail-{mail.method}").start()

    def _serve(self, mail: Mail) -> None:
        try:
            body = self.serve(mail.method, mail.body)
        except Exception as error:  # the one door: whatever failed here is the caller's to hear
            body = _told(error)
        with self._lock:
            self._serving.discard(mail.call_id)
            self._replies[mail.call_id] = body
            while len(self._replies) > REPLIES_KEPT:
                self._replies.popitem(last=False)
        self._reply(mail, body)

    def _reply(self, mail: Mail, body: Body) -> None:
        """A reply that the server could not take is asked for again by whoever waits for it."""
        self._post(Mail(to=mail.sender, sender=self.link.node, call_id=mail.call_id, method=REPLY, body=body))


def _told(error: Exception) -> Body:
    return {
        "error": str(error) or type(error).__name__,
        "remedy": getattr(error, "remedy", ""),
        "lasting": getattr(error, "lasting", False),
        "exit_code": getattr(error, "exit_code", None),
        "kind": type(error).__name__,
    }

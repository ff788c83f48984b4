"""Every line that the supervisor logs about its workers and itself: one table, from which the documentation is made.

A sentence says what happened, why (or the likeliest why), and what is done about it. Pure: no clock, no I/O.
"""

from __future__ import annotations

from enum import Enum


class News(Enum):
    """Level, and the sentence with its blanks."""

    level: str
    sentence: str

    def __init__(self, level: str, sentence: str) -> None:
        self.level = level
        self.sentence = sentence

    # Workers
    BOOTING = "debug", "booting"
    READY = "info", "ready after {after:.2f} s{serves}"
    RETIRING = "info", "retiring: {why}"
    LEFT = "info", "left after {after:.1f} s ({why})"
    DIED = "error", "{how} after {after:.1f} s{count}. Its slot gets a new worker {when}.{doing}"
    BOOT_FAILED = "error", "failed while {during}: {error}{count}. Its slot is tried again {when}.{traceback}"
    BOOT_TIMEOUT = "error", "not ready within boot_timeout ({limit:g} s). It is killed{count}. Its slot is tried again {when}."
    STUCK = "error", "stuck: {doing}. It is killed{count}, and its slot gets a new worker {when}."
    HUNG_UP = (
        "warning",
        "closed its channel but lives on, perhaps the application closed all file descriptors. It retires{count}.",
    )
    DRAIN_TIMEOUT = "warning", "did not leave within {limit:.1f} s ({why}). It is killed."
    STACKS = "error", "what it was at:\n{stacks}"
    SLOW = "warning", "slow request: {doing}. It goes on; this is what it is at:"
    TOO_BIG = "error", "uses {size} MiB, the hard limit is {limit} MiB. It is killed{count}, its slot tried again {when}."
    SPENT = "info", "to be replaced: {why}"
    UNKILLABLE = "error", "SIGKILL did not end it within {limit:g} s: it hangs in the kernel (disk, NFS?). Given up."
    FORK_FAILED = "error", "fork() failed: {error}. Tried again {when}; the workers that live serve on."

    # Generations
    SERVING = "info", "serving: the first worker is ready; {count} are wanted"
    ALL_READY = "info", "all {count} workers are ready"
    TRIAL = "info", "reload: one worker of the new generation is booted to prove it; nothing else changes until it has"
    PROMOTED = "info", "reload: the new generation has proven itself; workers are replaced one by one"
    RELOADED = "info", "reload done: all {count} workers are of the new generation"
    REFUSED = "error", "reload refused: worker={slot} gen={refused} {why} {keeps} Fix and send HUP again.{traceback}"
    SUPERSEDED = "info", "reload: a newer one takes the place of the generation on trial"
    TOO_LATE = "warning", "reload ignored: the service is ending"
    NEVER_SERVED = "critical", "cannot start: worker={slot} {why}{traceback}"

    # Upgrade
    UPGRADE = "info", "upgrade: a new supervisor is started on the same sockets; this one serves until that one does"
    UPGRADE_IGNORED = "warning", "upgrade ignored: {why}"
    UPGRADE_FAILED = "error", "upgrade refused: the new supervisor {how}. This one keeps serving; nothing has changed."
    HANDED_OVER = "info", "upgrade: the new supervisor serves and has taken over; this one {then}"
    SUCCEEDED = "info", "upgrade done: this supervisor leaves"
    TAKEN_BACK = "error", "the new supervisor {how}: this one takes the service back"
    ENDED_TOO = "info", "the new supervisor {how}: this one, which was leaving, ends with it"
    RECLAIMED = "warning", "all workers of this supervisor are ready: it takes the service back, and the new one is stopped"
    HANDED_ALREADY = "warning", "TTIN ignored: the new supervisor serves. HUP to this one takes the service back"
    UPGRADING = "warning", "reload ignored: an upgrade is under way, which loads everything anew"

    # The service
    SCALED = "info", "{count} workers wanted, {delta:+d} by signal"
    AUTOSCALED = "info", "{count} workers wanted ({before} before): {busy:.1f} of them are busy on average"
    AT_BOUND = "warning", "workers wanted: {count}, the {bound} that the settings allow: ignored"
    AT_MINIMUM = "warning", "one worker is the least there can be: TTOU ignored"
    RESTING = "info", "all workers are retired by signal; TTIN or HUP brings them back"
    AWAKE = "info", "workers are brought back: {count} wanted"
    GAVE_UP = "critical", "no worker has been ready for {seconds:.1f} s (give_up_after): giving up"
    DRAINING = "info", "draining: health checks say no, all else is served for {seconds:g} s more; ask again to stop now"
    STOPPING = "info", "stopping: workers finish their requests, up to {limit:g} s; ask again to hurry"
    QUITTING = "info", "quitting: workers are interrupted"
    KILLING = "warning", "killing all workers"
    WOKE = (
        "warning",
        "the supervisor did not run for {seconds:.1f} s (suspended or stopped?): all deadlines are extended",
    )

"""Breaks the policy on purpose, one small mistake at a time: the tests of this folder must notice each of them.

``python tests/fleet/mutants.py [word ...]`` runs all mutants, or those with a word in their name. Each is applied to a copy of
the package in a temporary folder, which stands first on the path of a pytest run of this folder. Exit status 1: a mutant
survived, so a property is missing; 2: the script itself is out of date (a replacement does not match exactly once, or the
tests fail without any mutant).

A mutant is a sentence that says what it breaks. Whoever changes a line that is named here changes it here too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
JOBS = 2
PATIENCE = 120.0
"""Seconds for one run. A mutant that hangs is stopped by pytest's own limit long before; this is for one that escapes it."""


@dataclass(frozen=True)
class Mutant:
    """A mistake: `old` becomes `new` in `module`."""

    name: str
    module: str
    old: str
    new: str


LIFECYCLE = [
    Mutant("a late READY brings a retiring worker back", "lifecycle", "SAID_READY:      (_R,     _R,    _T", "SAID_READY:      (_R,     _R,    _R"),
    Mutant("a failed boot is not the end of a boot", "lifecycle", "SAID_FAILED:     (_T,", "SAID_FAILED:     (_B,"),
    Mutant("asking twice does not hurry", "lifecycle", "_S.STOPPING,  _S.QUITTING,  _S.KILLING", "_S.STOPPING,  _S.STOPPING,  _S.KILLING"),
    Mutant("QUIT does not hurry a stop", "lifecycle", "_S.QUITTING,  _S.QUITTING,  _S.KILLING", "_S.QUITTING,  _S.STOPPING,  _S.KILLING"),
    Mutant("a stopping service is not ending", "lifecycle", "self >= Standing.STOPPING", "self > Standing.STOPPING"),
    Mutant("a retiring worker still fills its slot", "lifecycle", "self <= Phase.READY", "self <= Phase.RETIRING"),
]  # fmt: skip

TIMES = [
    Mutant("LEAVE_GRACE is longer", "fleet", "LEAVE_GRACE: Final = 2.0", "LEAVE_GRACE: Final = 3.0"),
    Mutant("QUICK_GRACE is longer", "fleet", "QUICK_GRACE: Final = 1.0", "QUICK_GRACE: Final = 1.5"),
    Mutant("HANGUP_GRACE is longer", "fleet", "HANGUP_GRACE: Final = 1.0", "HANGUP_GRACE: Final = 1.5"),
    Mutant("KILL_GRACE is longer", "fleet", "KILL_GRACE: Final = 5.0", "KILL_GRACE: Final = 6.0"),
    Mutant("stacks are asked for too early", "fleet", "DUMP_GRACE: Final = 0.5", "DUMP_GRACE: Final = 0.6"),
    Mutant("a crash loop of workers that served waits for long", "books", "SERVED_DELAY: Final = 2.0", "SERVED_DELAY: Final = 30.0"),
    Mutant("the second try waits already", "books", "if failures <= 1:", "if failures <= 0:"),
    Mutant("jitter makes delays longer", "books", "(1 - 0.25 * worker.jitter)", "(1 + 0.25 * worker.jitter)"),
    Mutant("there is no jitter", "books", "(1 - 0.25 * worker.jitter)", "1"),
    Mutant("deadlines are met a moment late", "fleet", "if worker.deadline <= now]", "if worker.deadline < now]"),
    Mutant("the clock wakes for what is past", "fleet", "(time for time in times if time > self._now), default=inf)\n\n    def _enf", "(time for time in times if time >= self._now), default=inf)\n\n    def _enf"),
    Mutant("nobody wakes at the end of a back-off", "fleet", "times.append(self.retry_at)", "times.append(self._forks.retry_at)"),
    Mutant("nobody wakes when a fork may be tried again", "fleet", "times.append(self.retry_at)", "pass"),
    Mutant("nobody wakes at the end of a trial", "fleet", "times.append(canary.since + candidate.plan.prove)", "times.append(inf)"),
    Mutant("nobody wakes for an old worker", "fleet", "times.append(self._lives_until(worker))", "times.append(inf)"),
    Mutant("deadlines run while the supervisor sleeps", "fleet", "worker.deadline += seconds", "worker.deadline += 0"),
    Mutant("the drain delay runs while the supervisor sleeps", "fleet", "self._drained_at += seconds", "self._drained_at += 0"),
    Mutant("nobody wakes at the end of the drain delay", "fleet", "self._drained_at, self.succession.leave_at", "self.succession.leave_at"),
    Mutant("a reload while draining is tried", "fleet", "if self.standing.is_leaving:", "if self.standing.is_ending:"),
    Mutant("a worker forked while draining is not told", "fleet", "        if self.standing is Standing.DRAINING:\n            self._effects.append(Drain())\n        self._tell(News.BOOTING", "        self._tell(News.BOOTING"),
    Mutant("a stop waits though nobody is served", "fleet", "not (delay and has_guests)", "not delay"),
    Mutant("a stop that was hurried is asked for again", "fleet", "            self._drained_at = inf\n            if", "            if"),
    Mutant("patience runs while the supervisor sleeps", "fleet", "self._down_since += seconds", "self._down_since += 0"),
    Mutant("asking to hurry gives more time", "fleet", "min(worker.deadline, now + QUICK_GRACE)", "now + QUICK_GRACE"),
    Mutant("all workers of an age go at once", "fleet", "plan.max_lifetime_jitter * worker.jitter", "plan.max_lifetime_jitter"),
]  # fmt: skip

TRIALS = [
    Mutant("a canary is trusted at once", "fleet", "now >= canary.since + candidate.plan.prove)", "True)"),
    Mutant("a canary that has hung up is trusted", "fleet", "if canary.serves and (not", "if canary.phase is Phase.READY and (not"),
    Mutant("a retiring canary is not refused", "fleet", "if canary.phase > Phase.READY:", "if canary.phase > Phase.RETIRING:"),
    Mutant("a spent canary is refused", "fleet", "worker.phase is Phase.READY and judgement in _TRUSTED", "worker.phase is Phase.READY"),
    Mutant("a second reload leaves the first canary alive", "fleet", 'self._retire(canary, now, "a newer generation is tried")', "pass"),
    Mutant("a second reload adds a candidate", "fleet", "self.candidate.judgement = Judgement.REFUSED\n", "pass\n"),
    Mutant("a canary takes the place of its neighbour", "fleet", "if worker.serves and not self._is_on_trial(worker)]", "if worker.serves]"),
    Mutant("a canary fills a slot", "fleet", "worker.id.slot <= self.count and not self._is_on_trial(worker)}", "worker.id.slot <= self.count}"),
    Mutant("a canary above the count is retired", "fleet", "worker.id.slot > self.count and not self._is_on_trial(worker)]", "worker.id.slot > self.count]"),
    Mutant("a canary that could not be forked ends the trial", "fleet", "generation.canary = None", "pass"),
    Mutant("fork() that fails does not hold a trial up", "fleet", "if now < self._forks.retry_at or not self._has_room:", "if not self._has_room:"),
    Mutant("a trial begins though there is no room", "fleet", "if now < self._forks.retry_at or not self._has_room:", "if now < self._forks.retry_at:"),
    Mutant("a refused first generation ends with success", "fleet", "self.code = Exit(code) if code in _FAILURES else Exit.BOOT", "self.code = Exit.OK"),
    Mutant("a worker may choose any exit status", "fleet", "Exit(code) if code in _FAILURES else Exit.BOOT", "Exit(code)"),
    Mutant("a reload keeps the back-offs of the code before", "fleet", "slot.failures, slot.retry_at = 0, -inf", "slot.failures = 0"),
    Mutant("the old generation is not outgoing", "fleet", "outgoing.judgement = Judgement.OUTGOING", "pass"),
]  # fmt: skip

PLACES = [
    Mutant("a stale worker goes before its successor is ready", "fleet", "or kept.get(worker.id.slot, worker) is not worker)", "or True)"),
    Mutant("the stale one is kept, and its successor leaves", "fleet", "key=lambda worker: not self._is_stale(worker))", "key=self._is_stale)"),
    Mutant("a worker that is leaving relieves another", "fleet", "serving = [worker for worker in self.active if worker.serves and", "serving = [worker for worker in self.active if worker.phase is Phase.READY and"),
    Mutant("one worker more than the surge", "fleet", "- len(self._filled) < self._ruling.surge", "- len(self._filled) <= self._ruling.surge"),
    Mutant("the places of empty slots are given away", "fleet", "len(self.active) - len(self._filled) <", "len(self.active) - self.count <"),
    Mutant("forks while ending", "fleet", "if not self.current or self.standing.is_ending:\n", "if not self.current:\n"),
    Mutant("successors ignore the surge", "fleet", "or self.standing.is_ending or not self._has_room:", "or self.standing.is_ending:"),
    Mutant("a slot's back-off is not kept", "fleet", " and now >= self._slot(slot).retry_at", ""),
    Mutant("the back-off of fork() is not kept", "fleet", "return now >= self._forks.retry_at and", "return"),
    Mutant("each fork() that fails in a turn counts", "fleet", "if now < self._forks.retry_at:\n", "if now < -1:\n"),
    Mutant("a success of fork() is forgotten", "fleet", "self._forks.failures = 0  #", "pass  #"),
    Mutant("a long life does not end a crash loop", "fleet", "            slot.failures = 0\n", "            pass\n"),
    Mutant("a death of a worker that served may be silent", "fleet", "del self._repeats[fault]", "pass"),
    Mutant("a crash loop fills the log", "fleet", "return number & (number - 1) == 0", "return number > 0"),
    Mutant("two spent workers are replaced at once", "fleet", "if worker.spent and is_replacing:", "if worker.spent and is_replacing and not worker:"),
    Mutant("all large workers are replaced at once", "fleet", "if ready and not any(worker.spent for worker in ready):", "if ready:"),
    Mutant("TTIN is forgotten by every reload", "fleet", "if after.count != before.count:", "if after.count:"),
    Mutant("TTIN outlives a new number in the settings", "fleet", "if after.count != before.count:", "if not after.count:"),
    Mutant("TTOU below one is remembered", "fleet", "elif self.count + by < 1:", "elif self.count + by < -9:"),
]  # fmt: skip

ENDS = [
    Mutant("a reaped process is signalled", "fleet", "or effect.id in self.workers]", "or effect.id]"),
    Mutant("SIGQUIT to a worker that boots", "fleet", "Force.INTERRUPT if worker.ready_at < inf else Force.ASK", "Force.INTERRUPT"),
    Mutant("a word into a closed channel", "fleet", "last=is_last) if worker.serves else", "last=is_last) if worker.phase is Phase.READY else"),
    Mutant("a worker that hung up lives on", "fleet", "case _ if worker.hung_up and worker.phase.is_active:", "case _ if worker.hung_up and worker.phase is Phase.GONE:"),
    Mutant("a retiring worker is called stuck", "fleet", "case facts.Overdue(_, doing):\n                if worker.phase is Phase.READY:", "case facts.Overdue(_, doing):\n                if worker.phase <= Phase.RETIRING:"),
    Mutant("a stuck worker is left alone", "fleet", "News.STUCK, doing=doing)\n                    self._condemn(worker, now)", "News.STUCK, doing=doing)"),
    Mutant("the end does not wait for retiring workers", "fleet", "if not self.workers and not self.succession", "if not self.active and not self.succession"),
    Mutant("a generation is forgotten while a worker needs it", "fleet", " and number not in in_use", ""),
    Mutant("generations are never forgotten", "fleet", "if len(self._generations) > 1:", "if len(self._generations) > 99:"),
    Mutant("an unkillable worker is waited for", "fleet", "self._tell(News.UNKILLABLE, worker, limit=KILL_GRACE)\n                    self._drop(worker)", "worker.deadline = inf"),
    Mutant("a reload while ending is tried", "fleet", "            generation.judgement = Judgement.REFUSED\n            self._tell(News.TOO_LATE)\n            return\n", "            pass\n"),
]  # fmt: skip

UPGRADES = [
    Mutant("upgrade: a second one starts while one is under way", "succession", "_BUSY.get(heir) or obstacle", "obstacle"),
    Mutant("upgrade: an obstacle is no reason", "succession", "_BUSY.get(heir) or obstacle or refusal", "_BUSY.get(heir) or refusal"),
    Mutant("upgrade: one that was given up is believed", "succession", "facts.SuccessorReady(), Heir.STARTING", "facts.SuccessorReady(), _"),
    Mutant("upgrade: one boot is time enough", "succession", "now + 2 * plan.boot_timeout", "now + plan.boot_timeout"),
    Mutant("upgrade: whoever is stopped early ends the service", "succession", "(was_asked and now >= self.leave_at)", "was_asked"),
    Mutant("upgrade: whoever dies late ends the service", "succession", "(was_asked and now >= self.leave_at)", "now >= self.leave_at"),
    Mutant("upgrade: what is taken back is kept from leaving no more", "succession", 'words={"how": how})]\n                self.leave_at = inf', 'words={"how": how})]'),
    Mutant("upgrade: the end forgets a successor that starts", "succession", "if self.heir is Heir.STARTING:\n            self._dismiss(now, plan)\n        if", "if"),
    Mutant("upgrade: who is not wanted is never killed", "succession", "case Heir.LEAVING:\n                self._kill(now)", "case Heir.LEAVING:\n                self.deadline = inf"),
    Mutant("upgrade: the old one does not wait for its workers", "fleet", "self.resting and not self.workers and not self.candidate", "self.resting and not self.candidate"),
    Mutant("upgrade: the old one does not wait for a trial", "fleet", "self.resting and not self.workers and not self.candidate", "self.resting and not self.workers"),
    Mutant("upgrade: the service ends before its successor", "fleet", "not self.workers and not self.succession.heir.is_ending and", "not self.workers and"),
    Mutant("upgrade: TTIN takes back what was handed over", "fleet", "by > 0 and self.succession.heir is Heir.REIGNING", "by > 1 and self.succession.heir is Heir.REIGNING"),
    Mutant("upgrade: the old one shuts the doors of the new one", "fleet", "            if self.succession.heir is not Heir.REIGNING:\n                self._doors_at", "            if True:\n                self._doors_at"),
    Mutant("upgrade: resting is taken for taking back", "fleet", "current.judgement is Judgement.ROLLING and not self.resting:", "current.judgement is Judgement.ROLLING:"),
    Mutant("upgrade: a reload starts beside it", "fleet", "self.succession.heir is Heir.STARTING", "False"),
]  # fmt: skip

MUTANTS = [*LIFECYCLE, *TIMES, *TRIALS, *PLACES, *ENDS, *UPGRADES]


def copy_package(to: Path) -> None:
    """The package with its links followed, so that nothing of the tree is imported beside it."""
    shutil.copytree(ROOT / "arbiter", to / "arbiter", ignore=shutil.ignore_patterns("__pycache__"))


def apply(mutant: Mutant, to: Path) -> str:
    """Write the mistake into the copy; what is wrong with the mutant itself, or nothing."""
    path = to / "arbiter" / f"{mutant.module}.py"
    source = path.read_text()
    if (matches := source.count(mutant.old)) != 1:
        return f"{mutant.module}.py has {matches} matches for {mutant.old!r}"
    path.write_text(source.replace(mutant.old, mutant.new))
    return ""


def run_tests(package: Path) -> tuple[int, str]:
    """Pytest's exit status with this copy (1: a test failed), and the first test that did."""
    tests = sorted(FOLDER.glob("test_*.py"), key=lambda path: ("properties" in path.name, path.name))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--timeout=60", "--tb=no"]
    command += ["-o", "addopts=--import-mode=importlib -rfE", "--hypothesis-profile=hunt", "--hypothesis-seed=0"]
    command += [str(test) for test in tests if test.name != "test_mutants.py"]
    environment = os.environ | {"PYTHONPATH": str(package), "PYTHONSAFEPATH": "1"}
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return 1, "(it hangs)"
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return done.returncode, failed[0].partition("::")[2].partition(" - ")[0] if failed else done.stdout[-500:]


def try_mutant(mutant: Mutant | None) -> tuple[str, str]:
    """`killed`, `SURVIVED` or `BROKEN`, and by what; without a mutant `killed` would mean that the tests fail anyway."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy_package(Path(folder))
        if mutant and (problem := apply(mutant, Path(folder))):
            return "BROKEN", problem
        status, evidence = run_tests(Path(folder))
    return {0: ("SURVIVED", ""), 1: ("killed", evidence)}.get(status, ("BROKEN", evidence))


def check_path() -> str:
    """What is wrong with the way in which the copy is put first on the path, or nothing."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy_package(Path(folder))
        command = [sys.executable, "-c", "import arbiter.fleet, arbiter.workers; print(arbiter.fleet.__file__)"]
        environment = os.environ | {"PYTHONPATH": folder, "PYTHONSAFEPATH": "1"}
        found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        return "" if found.startswith(folder) else f"not the copy is tested, but {found}"


def main(words: list[str]) -> int:
    """Try the mutants whose names have one of the words (all, without words)."""
    chosen = [mutant for mutant in MUTANTS if not words or any(word in mutant.name for word in words)]
    if problem := check_path():
        print(problem)
        return 2
    began = time.monotonic()
    with ThreadPoolExecutor(JOBS) as pool:
        sound = pool.submit(try_mutant, None)
        verdicts = []
        for mutant, (verdict, evidence) in zip(chosen, pool.map(try_mutant, chosen), strict=True):
            verdicts.append(verdict)
            print(f"{verdict:8}  {mutant.name}  [{evidence}]", flush=True)
    if sound.result()[0] != "SURVIVED":
        print(f"the tests fail without any mutant: {sound.result()[1]}")
        return 2
    survived, broken = verdicts.count("SURVIVED"), verdicts.count("BROKEN")
    print(f"{len(chosen)} mutants in {time.monotonic() - began:.0f} s: {survived} survived, {broken} broken")
    return 2 if broken else int(survived > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

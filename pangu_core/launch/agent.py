"""The launcher's loop: join a round, run its ranks, watch them, obey the store, end with a reason.

Decisions are elsewhere and pure (verdict.py, heartbeat.py, rendezvous/membership.py); this loop
carries them out. docs/elasticity.md tells the whole story.
"""

import logging
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from pangu_core.errors import (
    EXIT_COMPLETE,
    EXIT_STOPPED,
    EXIT_UNEXPECTED,
    RendezvousError,
    StallError,
    Stopped,
)
from pangu_core.launch.history import History, progress_of
from pangu_core.launch.ranks import LocalRanks, place_of, shared_environment
from pangu_core.launch.settings import AgentSettings
from pangu_core.launch.starter import Starter
from pangu_core.launch.stop import StopRequest
from pangu_core.launch.verdict import Verdict, died, judge, stalled
from pangu_core.memory import oom_kills
from pangu_core.messages import Progress, Termination
from pangu_core.rendezvous.client import Client
from pangu_core.rendezvous.ports import free_port
from pangu_core.rendezvous.protocol import Beat, Outcome, Round, View

EXIT_OOM: Final = 128 + signal.SIGKILL
logger = logging.getLogger(__name__)


class Agent:
    """One launcher. ``run`` returns the pod's termination message."""

    def __init__(self, settings: AgentSettings, client: Client, stop: StopRequest) -> None:
        self._settings, self._limits = settings, settings.limits
        self._client, self._stop = client, stop
        self._starter = Starter(
            settings.command,
            shared_environment(settings.environment, settings.processes),
            spare_command=settings.spare_command,
            spares=settings.processes,
        )
        self._history = History()
        self._ranks: LocalRanks | None = None
        self._round: Round | None = None
        self._port = free_port()
        self._outcome: Outcome | None = None
        self._failed_at: float | None = None  # when this node told that the attempt failed
        self._leaving = False  # the pod was told to stop
        self._draining = False  # the ranks were told that the gang changes
        self._deadline: float | None = None  # when the ranks must be gone
        self._oom_kills = 0
        self._folder = Path()

    def run(self) -> Termination:
        """Take part until the attempt is over, or this pod's part in it."""
        with tempfile.TemporaryDirectory(prefix="pangu-launch-") as folder:
            self._folder = Path(folder)
            try:
                self._starter.warm_up(gently=False)
                self._client.tell(self._beat())
                while (end := self._tick()) is None:
                    self._client.tell(self._beat())
            finally:
                self._starter.close()
                if self._ranks:
                    self._ranks.close()
        self._say_goodbye(end)
        return end

    def report(self) -> Progress:
        """The answer to /progress; called from the server's thread."""
        ranks = self._ranks
        return progress_of(
            self._history,
            self._round,
            ranks.pulses if ranks else [],
            processes=self._settings.processes,
            now=time.monotonic(),
        )

    # One turn of the loop

    def _tick(self) -> Termination | None:
        if self._ranks is None:
            time.sleep(self._limits.tick)
        else:
            self._ranks.listen(self._limits.tick)
            if all(pulse.is_stepping for pulse in self._ranks.pulses):
                self._starter.warm_up(gently=True)
        view = self._client.view
        if view is not None:
            self._history.seen = max(self._history.seen, view.number)
        if self._stop.at is not None and not self._leaving:
            return self._begin_leaving(self._stop.at)
        if self._ranks is None:
            return self._while_waiting(view)
        return self._watch(self._ranks) or self._obey(view)

    def _while_waiting(self, view: View | None) -> Termination | None:
        if view and view.command == "exit" and view.outcome:
            return _termination(view.outcome)
        if self._failed_at is not None and self._outcome:
            return self._await_word(view, self._outcome, self._failed_at)
        if self._client.silence_seconds > self._limits.store_away:
            raise RendezvousError(
                "rendezvous store",
                seen=f"no answer for {self._client.silence_seconds:.0f} s",
                rule="must answer while a node waits for a round",
                fix="look at the store's pod and at what lies between",
            )
        offered = view.round if view and view.command == "start" else None
        if offered and offered.number > self._history.left:
            self._start(offered)
        return None

    def _await_word(self, view: View | None, own: Outcome, since: float) -> Termination | None:
        """Hear what the store makes of this node's failure.

        It ends the attempt, unless the round in which it happened is over for the others: then
        this launcher was stopped or cut off meanwhile, and what befell its ranks is history.
        """
        if view and view.number > self._history.left:
            logger.info("round %d was over: its failure counts no more", self._history.left)
            self._outcome = self._failed_at = None
        elif time.monotonic() - since > self._limits.farewell:
            return _termination(own)
        return None

    def _start(self, gang: Round) -> None:
        settings = self._settings
        node = gang.members.index(settings.id)
        places = [
            place_of(gang, node=node, processes=settings.processes, local_rank=local_rank)
            | {"PANGU_ERROR_FILE": str(self._folder / f"error-{local_rank}.json")}
            for local_rank in range(settings.processes)
        ]
        logger.info("round %d: node %d of %d", gang.number, node, len(gang.members))
        self._draining, self._deadline = False, None
        self._oom_kills = oom_kills()
        self._ranks = LocalRanks(self._starter, places)
        self._round = gang

    def _begin_leaving(self, asked_at: float) -> Termination | None:
        """Pass SIGTERM on; ranks that have not begun to train have nothing to save."""
        self._leaving = True
        self._deadline = asked_at + max(0.0, self._limits.grace - self._limits.grace_margin)
        ranks = self._ranks
        if ranks and all(pulse.is_training for pulse in ranks.pulses):
            logger.info("asked to stop: the ranks save at the next step boundary")
            ranks.send(signal.SIGTERM)
            return None
        if ranks is None:
            return self._stopped("it had no ranks")
        self._end_round(clean=False, cause=None)
        return self._stopped("no step was made yet")

    # Ranks

    def _watch(self, ranks: LocalRanks) -> Termination | None:
        """Act on what the ranks say and on how they end."""
        # The codes first: what a rank said before it ended is then in its pipe. And the time
        # before the pipes are read: this process may have been stopped, unlike the ranks.
        codes, now = ranks.codes, time.monotonic()
        ranks.listen(0)
        self._note_result(ranks)
        oom = oom_kills() > self._oom_kills
        verdict = judge(codes, ranks.errors(), done=self._is_done(), oom=oom)
        if verdict.kind == "wait":
            if any(code is not None for code in codes):
                self._hurry_to_leave(ranks)
            return self._check_time(ranks, codes, now)
        return self._conclude(ranks, verdict)

    def _note_result(self, ranks: LocalRanks) -> None:
        for pulse in ranks.pulses:
            if pulse.phase == "done" and pulse.manifest_sha256 and not self._outcome:
                self._outcome = Outcome(
                    code=EXIT_COMPLETE,
                    step=pulse.step,
                    loss=pulse.loss,
                    output=pulse.output,
                    manifest_sha256=pulse.manifest_sha256,
                )
                self._hurry(self._limits.finish)

    def _conclude(self, ranks: LocalRanks, verdict: Verdict) -> Termination | None:
        """End the round for the reason that the judge found."""
        failure = self._failure(ranks, verdict)
        if verdict.kind == "complete" and self._outcome:
            return _termination(self._outcome)
        if self._leaving:
            saved = verdict.kind == "rejoin"
            self._end_round(clean=saved, cause=None)
            return self._stopped(_SAVED) if saved else self._stopped(_NOT_SAVED, failure)
        if verdict.kind == "failed":
            self._fail(failure)
            return None
        if verdict.kind == "oom":
            self._end_round(clean=False, cause=None)
            return _termination(failure)
        if verdict.kind == "crash":
            logger.warning("rank %s: %s", failure.rank, failure.message)
            self._restart("crash", failure)
            return None
        self._end_round(clean=verdict.kind == "rejoin", cause=_CAUSES[verdict.kind])
        return None

    def _fail(self, failure: Outcome) -> None:
        """End this node's part, tell the store, and wait for its word."""
        self._outcome, self._failed_at = failure, time.monotonic()
        self._end_round(clean=False, cause=None)

    def _failure(self, ranks: LocalRanks, verdict: Verdict) -> Outcome:
        """The first failing rank's own words, or what its exit code says."""
        local, current, pulses = verdict.local_rank or 0, self._round, ranks.pulses
        node = current.members.index(self._settings.id) if current else 0
        said = ranks.errors().get(local)
        code = verdict.code or EXIT_UNEXPECTED
        oom = verdict.kind == "oom"
        rank = node * self._settings.processes + local
        return Outcome(
            code=EXIT_OOM if oom else code if code > 0 else EXIT_UNEXPECTED,
            error="OOMKilled" if oom else said.error if said else "RankDied",
            message=said.message if said else str(died(rank, ranks.codes[local], oom=oom)),
            traceback=said.traceback if said else "",
            rank=rank,
            step=max(pulse.step for pulse in pulses),
            loss=pulses[local].loss,
        )

    def _check_time(
        self, ranks: LocalRanks, codes: Sequence[int | None], now: float
    ) -> Termination | None:
        """Kill ranks that missed their deadline, or that stalled."""
        running = {rank: p for rank, p in enumerate(ranks.pulses) if codes[rank] is None}
        # The end of the grace period, or of the attempt, is fixed. Ranks that leave because the
        # gang changes may take as long for their save as for any other.
        fixed = self._leaving or self._is_done()
        patient = not fixed and any(p.phase in ("evaluate", "save") for p in running.values())
        if self._deadline is not None and now >= self._deadline and not patient:
            logger.warning("the ranks did not end in time: killed")
            if self._is_done() and self._outcome:
                return _termination(self._outcome)
            self._end_round(clean=False, cause=None if self._leaving else "stuck")
            return self._stopped(_NOT_SAVED) if self._leaving else None
        for local, pulse in running.items():
            limit = self._limits.stall.limit(pulse)
            if not fixed and pulse.silence_seconds(now) > limit:
                self._end_stall(ranks, local, limit)
                break
        return None

    def _end_stall(self, ranks: LocalRanks, local: int, limit: float) -> None:
        pulse = ranks.pulses[local]
        logger.warning("local rank %d is silent: stacks follow, then it is killed", local)
        self._dump_stacks(ranks)
        failure = self._failure(ranks, Verdict("crash", local, StallError.exit_code))
        error = stalled(failure.rank, pulse, limit)
        outcome = Outcome(
            **{**asdict(failure), "error": type(error).__name__, "message": str(error)},
        )
        self._restart("stall", outcome)

    def _dump_stacks(self, ranks: LocalRanks) -> None:
        ranks.send(signal.SIGUSR2)
        ranks.send(signal.SIGCONT)  # one that was stopped shows its stack only when it goes on
        time.sleep(self._limits.dump)

    def _restart(self, cause: str, failure: Outcome) -> None:
        """Take part in the next round, unless this happens again and again without a step."""
        times = self._history.count_crash(failure.step or 0)
        if times < self._limits.crashes:
            self._end_round(clean=False, cause=cause)
        else:
            message = f"{failure.message}; {times} times without a new step"
            self._fail(Outcome(**{**asdict(failure), "message": message}))

    def _end_round(self, *, clean: bool, cause: str | None) -> None:
        """Kill what is left of the ranks and be ready for the next round."""
        if self._ranks is not None and self._round is not None:
            self._ranks.close()
            self._history.end_round(self._round.number, self._ranks.pulses, clean=clean)
        if cause:
            self._history.restarts[cause] += 1
            logger.info("left round %d: %s", self._history.left, cause)
        self._ranks, self._round, self._port = None, None, free_port()

    def _hurry(self, seconds: float) -> None:
        if self._deadline is None:
            self._deadline = time.monotonic() + seconds

    def _hurry_to_leave(self, ranks: LocalRanks) -> None:
        self._hurry(max(self._limits.stall.leave(pulse) for pulse in ranks.pulses))

    def _is_done(self) -> bool:
        return self._outcome is not None and self._outcome.code == EXIT_COMPLETE

    # The store

    def _obey(self, view: View | None) -> Termination | None:
        ranks = self._ranks
        if ranks is None or view is None:
            return None
        if view.command == "exit" and view.outcome:
            return self._finish(view.outcome)
        if view.command == "stop":
            return self._break_off(ranks)
        # Before its first step a rank has no boundary to stop at, and perhaps no handler.
        ready = all(pulse.is_training for pulse in ranks.pulses)
        if view.command == "drain" and ready and not (self._draining or self._leaving):
            logger.info("the gang changes: the ranks leave at the next step boundary")
            self._draining = True
            self._hurry_to_leave(ranks)
            ranks.send(signal.SIGUSR1)
        return None

    def _break_off(self, ranks: LocalRanks) -> Termination | None:
        """Kill the ranks of a broken round; one that died of an error of its own still tells."""
        now, stall = time.monotonic(), self._limits.stall
        if any(2 * pulse.silence_seconds(now) > stall.limit(pulse) for pulse in ranks.pulses):
            # A stalled rank silences all others too, and any of their launchers may be the first
            # to break the round: each shows what its ranks did.
            self._dump_stacks(ranks)
        ranks.kill()
        self._note_result(ranks)
        verdict = judge(ranks.codes, ranks.errors(), done=self._is_done(), oom=False)
        if verdict.kind in ("failed", "complete"):
            return self._conclude(ranks, verdict)
        self._end_round(clean=False, cause="peer")
        return self._stopped(_NOT_SAVED) if self._leaving else None

    def _finish(self, outcome: Outcome) -> Termination | None:
        """The attempt is over: let the ranks end if it succeeded, else kill them."""
        if outcome.code != EXIT_COMPLETE:
            self._end_round(clean=False, cause=None)
            return self._stopped(_NOT_SAVED) if self._leaving else _termination(outcome)
        self._outcome = self._outcome or outcome
        self._hurry(self._limits.finish)
        return None

    def _beat(self) -> Beat:
        settings, history = self._settings, self._history
        pulses = self._ranks.pulses if self._ranks else []
        return Beat(
            gang=settings.gang,
            rules=settings.rules,
            id=settings.id,
            address=settings.address,
            port=self._port,
            state="waiting" if not self._ranks else "leaving" if self._leaving else "running",
            round=self._round,
            left=history.left,
            seen=history.seen,
            clean=history.clean,
            progress=history.beats + sum(pulse.beats for pulse in pulses),
            outcome=self._outcome,
        )

    def _say_goodbye(self, end: Termination) -> None:
        """Tell the store; a result must reach the nodes that wait, so try longer for that."""
        done, limits = self._is_done(), self._limits
        last = {**vars(self._beat()), "state": "gone", "round": None}
        if end.code in (EXIT_OOM, RendezvousError.exit_code):
            last["clean"] = False
        patient = done and not self._leaving
        seconds = limits.finish if patient else limits.farewell
        if not self._client.say_gone(Beat(**last), wait_seconds=seconds):
            logger.warning("the store did not hear this node's end")

    def _stopped(self, how: str, failure: Outcome | None = None) -> Termination:
        pulse = self._history.pulse
        return Termination(
            code=EXIT_STOPPED,
            error=failure.error if failure else Stopped.__name__,
            message=f"asked to stop; {how}",
            traceback=failure.traceback if failure else "",
            step=pulse.step,
            loss=pulse.loss,
        )


_SAVED: Final = "saved at a step boundary"
_NOT_SAVED: Final = "not saved: the last checkpoint holds"
_CAUSES: Final = {"rejoin": "resize", "lost": "peer"}


def _termination(outcome: Outcome) -> Termination:
    return Termination(**asdict(outcome))

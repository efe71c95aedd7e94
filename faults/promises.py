"""The promises that rows share, held against the outcome of a run."""

from __future__ import annotations

from collections import Counter

from faults.outcome import POLLED, PUSHED, Outcome
from faults.pace import Pace
from server.chaos.verdict import Loss
from server.domain.session import AuditEvent
from testkit.programs import Program
from tryon.protocol.states import Event, Status


class Promises:
    """The promises of a run; each broken one is noted in its outcome.

    ``fault``: when it began and was over (Unix seconds).
    """

    def __init__(self, outcome: Outcome, pace: Pace) -> None:
        self.outcome = outcome
        self.pace = pace
        self.fault = (0.0, 0.0)

    def __repr__(self) -> str:
        return f"<Promises: {len(self.outcome.wrong)} broken>"

    def expect(self, true: bool, otherwise: str) -> None:
        """Note a broken promise unless the condition is true."""
        if not true:
            self.outcome.wrong.append(otherwise)

    def within(self, seconds: float, limit: float, subject: str, *, most_slack: float = float("inf")) -> None:
        """Hold a measured time against its promise, times the pace's slack."""
        self.expect(
            seconds <= limit * min(self.pace.slack, most_slack), f"{subject}: {seconds:.2f} s, promised {limit:g}"
        )

    # -- connections -------------------------------------------------------------------

    def no_connection_lost(self) -> None:
        """Expect that no connection was lost and every new one came about."""
        self.expect(not self.outcome.losses, f"clients were cut off: {_listed(self.outcome.losses)}")

    def streams_stayed(self) -> None:
        """Expect that connected clients stayed connected.

        Polls and new connections may be refused.
        """
        cut = Counter({loss: count for loss, count in self.outcome.losses.items() if loss.over in PUSHED and loss.live})
        self.expect(not cut, f"streams were cut off: {_listed(cut)}")

    def losses_mean_unavailable(self) -> None:
        """Expect that lost and refused connections were answered with "unavailable".

        A poll may have got no answer until its time was over.
        """
        for loss, count in self.outcome.losses.items():
            allowed = {503, 1006} if loss.over in POLLED else {503, 4053}
            self.expect(loss.code in allowed, f"{count} x {loss.over} was cut off or refused by {loss.code}")

    def pushed_during_fault(self, limit: float) -> None:
        """Expect that commits during the fault were pushed within ``limit`` seconds.

        A first snapshot does not count.
        """
        began_at, repaired_at = self.fault
        times = [
            sight.stale
            for sight in self.outcome.sights
            if sight.over in PUSHED
            and sight.status != Status.CREATED
            and began_at <= sight.t - sight.late <= repaired_at
        ]
        self.expect(bool(times), "nothing was pushed during the fault")
        latest = max(times, default=0.0)
        most_slack = 1 + 1.5 / limit  # no more, or a push after a short fault would do
        self.within(latest, limit, "the latest push of a commit during the fault", most_slack=most_slack)
        self.outcome.notes.append(f"{len(times)} pushes during the fault, the latest after {latest:.2f} s")

    def nothing_stale(self, limit: float = 5.0) -> None:
        self.within(self.outcome.stale_seconds, limit, f"the stalest sight ({self.outcome.stalest})")

    # -- answers -----------------------------------------------------------------------

    def cancels_answered(self) -> None:
        """Expect that cancels succeeded or were answered with 503."""
        others = {status: count for status, count in self.outcome.cancels.items() if status not in (200, 202, 503)}
        self.expect(not others, f"cancels were answered {others}")

    def uploads_accepted(self, limit: float = 2.0) -> None:
        """Expect that every upload was a 201 within ``limit`` seconds."""
        refused = Counter(f"{each.status} {each.why}" for each in self.outcome.uploads if each.status != 201)
        for answer, count in refused.items():
            self.expect(False, f"{count} uploads got {answer}")
        self.within(self.outcome.slowest_upload, limit, "the slowest upload")

    def refusals_have_retry_after(self, *statuses: int) -> None:
        """Expect that uploads were a 201, or one of these with a Retry-After."""
        for each in self.outcome.uploads:
            if each.status != 201:
                self.expect(
                    each.status in statuses and each.retry_after is not None,
                    f"an upload got {each.status} {each.why}, Retry-After {each.retry_after}",
                )

    def fault_was_felt(self, seconds: float) -> None:
        """Expect that a client was refused, or waited for ``seconds``.

        Else the row broke nothing.
        """
        refused = self.outcome.refused + self.outcome.told_to_wait + self.outcome.cancels[503]
        self.expect(refused > 0 or self.outcome.slowest_upload >= seconds, "no client was refused or had to wait")

    # -- sessions and processes --------------------------------------------------------

    def resumed(self, trails: dict[str, list[AuditEvent]]) -> None:
        """Note the recovery of the sessions from before the end of the fault.

        It ends when the last of them was claimed, or ended.
        """
        repaired_at = self.fault[1]
        for trail in trails.values():
            if trail and trail[0].at.timestamp() < repaired_at:
                moved = next((event for event in trail if event.event is not Event.CREATED), None)
                if moved is not None and moved.at.timestamp() > repaired_at:
                    self.outcome.recovered_after(moved.at.timestamp() - repaired_at)

    def no_lease_lost(self, trails: dict[str, list[AuditEvent]]) -> None:
        """Expect that no session was taken from its living worker."""
        lost = [
            event.session_id for trail in trails.values() for event in trail if event.data.get("reason") == "lease_lost"
        ]
        self.expect(not lost, f"{len(lost)} running sessions were taken from their living worker: {lost}")

    def still_running(self, *programs: Program) -> None:
        for program in programs:
            self.expect(program.running, f"{program.name} ended with {program.process.returncode}")


def _listed(losses: Counter[Loss]) -> str:
    return ", ".join(
        f"{count} x {loss.over} {'lost' if loss.live else 'refused'} {loss.code}" for loss, count in losses.items()
    )

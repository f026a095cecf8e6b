"""How fast a trial trains, and how many steps there is time for: where not for all, the schedule ends earlier, so that no rate is high when it does."""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable

from .result import StopCheck

FIRST_LOOK = 4  # steps, of which the first warms up
LEAST_COMPILING, MUCH_LONGER = 1.0, 10.0  # seconds of a step, and times the others
RECOMPILES = 4  # steps that warm up where a model is compiled: other sizes, of texts, are met and compiled for


class Pace:
    """The clock of a training, and the schedule that it leaves time for.

    Attributes:
        total_steps: of the schedule, as far as is known.
        shortened: why there are fewer than all; None: there are not.
        ahead: seconds that the next validation will take.
    """

    def __init__(self, all_steps: int, known: int, validations_per_step: float, steps_per_validation: float, should_stop: StopCheck) -> None:
        """Nothing is timed before ``start``.

        Args:
            known: the schedule's steps where a training goes on that has found them out, until its pace is known again: its rate stays where it was.
            validations_per_step: how often is validated.
            steps_per_validation: as many steps have a validation's rows; one not measured yet costs at most as much as they.
        """
        self.total_steps, self._all_steps = known or all_steps, all_steps
        self.shortened: str | None = None
        self.ahead = 0.0
        self._validations_per_step, self._steps_per_validation, self._should_stop = validations_per_step, steps_per_validation, should_stop
        self._clock, self._is_measured, self._is_cold = StepClock(), False, True

    def start(self, afresh: bool = False) -> None:
        """Steps follow; what was done meanwhile is none.

        Args:
            afresh: the model was compiled; they go at another pace than those before, and the first of them wait for the compiler.
        """
        if afresh:
            self._clock, self._is_cold = StepClock(RECOMPILES), True
        self._clock.start()

    def steps_done(self) -> None:
        """No step is under way any more: on a GPU they are, after they were asked for."""
        self._clock.settle()

    def step_taken(self, step: int) -> None:
        """Takes note of a step, and now and then looks whether all of them can be taken in time.

        Args:
            step: how many were taken in all.
        """
        is_due = self._clock.tick()
        if not (self._is_measured or self._clock.waits_for_compiler):
            self.ahead = self._clock.seconds * self._steps_per_validation
        if is_due:
            share = self._clock.seconds + self.ahead * self._validations_per_step

            def too_late(steps: int) -> str | None:
                return self._should_stop(self.ahead + share * steps)

            self.shortened = too_late(self._all_steps - step)
            self.total_steps = step + steps_in_time(self._all_steps - step, too_late) if self.shortened else self._all_steps

    def validated(self, seconds: float) -> None:
        """What the next ones will take; the first waited for imports, one after compiling for the compiler, and they say nothing of the others."""
        if not self._is_cold:
            self.ahead, self._is_measured = seconds, True
        self._is_cold = False

    def stop_reason(self) -> str | None:
        """Why to end now; None: go on."""
        return self._should_stop(self.ahead)

    def seconds_left(self, step: int) -> float:
        """Of steps alone; 0 before the first one."""
        return self._clock.seconds * (self.total_steps - step)


class StepClock:
    """Times the steps of a session.

    Attributes:
        seconds: of a step, on average; those that warm up count only as long as there are no others.
    """

    def __init__(self, warm_up: int = 1) -> None:
        """Nothing was timed yet.

        Args:
            warm_up: steps. Where they are more than one, a compiler is at work, and a later step that takes very much longer than the others
                is left out as well: it has met another size.
        """
        self.seconds, self._steps, self._counted, self._spent = 0.0, 0, 0, 0.0
        self._warm_up, self._due = warm_up, warm_up - 1 + FIRST_LOOK
        self.start()

    @property
    def waits_for_compiler(self) -> bool:
        return self._warm_up > 1 and not self._counted

    def start(self) -> None:
        """Steps follow; what was done meanwhile, such as a validation, is none."""
        self._last = time.perf_counter()

    def settle(self) -> None:
        """What has passed since the last tick belongs to the steps before."""
        now = time.perf_counter()
        if self._counted:
            self._spent += now - self._last
            self.seconds = self._spent / self._counted
        self._last = now

    def tick(self) -> bool:
        """A step was taken.

        Returns:
            Whether the pace is worth another look: after the fourth step, and whenever there are a quarter more.
        """
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        self._steps += 1
        is_compiling = self._warm_up > 1 and self._counted > 0 and seconds > max(LEAST_COMPILING, MUCH_LONGER * self.seconds)
        if self._steps > self._warm_up and not is_compiling:
            self._counted += 1
            self._spent += seconds
        self.seconds = self._spent / self._counted if self._counted else seconds
        if self._steps < self._due:
            return False
        self._due += max(1, self._due // 4)
        return True


def steps_in_time(most: int, too_late: Callable[[int], object]) -> int:
    """How many further steps there is time for, between 0 and ``most``.

    Args:
        too_late: whether so many would end too late; those beyond a number that would, do so too.
    """
    return max(0, bisect.bisect_left(range(most + 1), True, key=lambda steps: bool(too_late(steps))) - 1)

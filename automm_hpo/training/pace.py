"""How fast a trial trains, and how many steps there is time for. If not for all, the schedule is shortened, so that it ends at a low learning rate."""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable

FIRST_LOOK = 4  # steps before the first estimate, including one of warm-up
LEAST_COMPILING, MUCH_LONGER = 1.0, 10.0  # a step that takes longer than this, in seconds and in multiples of the average, was compiling
RECOMPILES = 4  # warm-up steps of a compiled model, because new sizes of texts are compiled for


class Pace:
    """Times a training, and fits its schedule into the time that is left.

    Attributes:
        total_steps: steps of the schedule, by the current estimate.
        shortened: why the schedule has fewer than all steps; None: it has all.
        ahead: estimated seconds of the next validation.
    """

    def __init__(
        self, all_steps: int, known: int, validations_per_step: float, steps_per_validation: float, should_stop: Callable[[float], str | None]
    ) -> None:
        """Nothing is timed before ``start``.

        Args:
            should_stop: a ``StopCheck`` that knows the epoch.
            known: steps of the schedule until the pace is known: the estimate of a resumed training, so that its learning rate stays the same, or all.
            validations_per_step: number of validations per step.
            steps_per_validation: validation rows per row of a step. Until a validation is measured, it is assumed to take as long as that many steps.
        """
        self.total_steps, self._all_steps = known or all_steps, all_steps
        self.shortened: str | None = None
        self.ahead = 0.0
        self._validations_per_step, self._steps_per_validation, self._should_stop = validations_per_step, steps_per_validation, should_stop
        self._clock, self._is_measured, self._is_cold = StepClock(), False, True

    def start(self, afresh: bool = False) -> None:
        """Starts timing steps. The time before does not count.

        Args:
            afresh: the model was just compiled, so that the pace changes, and the first steps wait for the compiler.
        """
        if afresh:
            self._clock, self._is_cold = StepClock(RECOMPILES), True
        self._clock.start()

    def steps_done(self) -> None:
        """Records that all steps have ended; a GPU still computes them after ``step_taken``."""
        self._clock.settle()

    def step_taken(self, step: int) -> None:
        """Records a step, and now and then estimates how many more there is time for.

        Args:
            step: number of steps taken in all.
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
        """Records a validation's duration as the forecast for the next. The first one, and the first after compiling, are skipped as warm-up."""
        if not self._is_cold:
            self.ahead, self._is_measured = seconds, True
        self._is_cold = False

    def stop_reason(self) -> str | None:
        """Why to end now; None: continue."""
        return self._should_stop(self.ahead)

    def seconds_left(self, step: int) -> float:
        """Estimated seconds of the remaining steps, without validations; 0 before the first step."""
        return self._clock.seconds * (self.total_steps - step)


class StepClock:
    """Times the steps of a session.

    Attributes:
        seconds: average duration of a step, or that of the last one during warm-up.
    """

    def __init__(self, warm_up: int = 1) -> None:
        """Nothing was timed yet.

        Args:
            warm_up: number of warm-up steps. More than one means a compiled model; then a later step that takes far longer than the others
                is left out as well, because a new size was compiled for.
        """
        self.seconds, self._steps, self._counted, self._spent = 0.0, 0, 0, 0.0
        self._warm_up, self._due = warm_up, warm_up - 1 + FIRST_LOOK
        self.start()

    @property
    def waits_for_compiler(self) -> bool:
        return self._warm_up > 1 and not self._counted

    def start(self) -> None:
        """Starts timing steps. The time before, such as that of a validation, does not count."""
        self._last = time.perf_counter()

    def settle(self) -> None:
        """Adds the time since the last tick to that of the steps before it."""
        now = time.perf_counter()
        if self._counted:
            self._spent += now - self._last
            self.seconds = self._spent / self._counted
        self._last = now

    def tick(self) -> bool:
        """Records a step.

        Returns:
            Whether to estimate the pace again: after the fourth step (the seventh if compiled), and whenever there are a quarter more.
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
        too_late: too_late(n): whether n more steps end too late. Must be monotonic in n.
    """
    return max(0, bisect.bisect_left(range(most + 1), True, key=lambda steps: bool(too_late(steps))) - 1)

"""How fast a trial trains, and how much of it there is time for."""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable

FIRST_LOOK = 4  # steps, of which the first warms up


class StepClock:
    """Times the steps of a session.

    Attributes:
        seconds: of a step, on average; the very first counts only as long as it is the only one.
    """

    def __init__(self) -> None:
        self.seconds, self._steps, self._spent, self._due = 0.0, 0, 0.0, FIRST_LOOK
        self.start()

    def start(self) -> None:
        """Steps follow; what was done meanwhile, such as a validation, is none."""
        self._last = time.perf_counter()

    def tick(self) -> bool:
        """A step was taken.

        Returns:
            Whether the pace is worth another look: after the fourth step, and whenever there are a quarter more.
        """
        now = time.perf_counter()
        self._steps += 1
        if self._steps > 1:
            self._spent += now - self._last
        self.seconds = self._spent / (self._steps - 1) if self._steps > 1 else now - self._last
        self._last = now
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

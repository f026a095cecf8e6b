import pytest

from automm_hpo.training import pace


@pytest.mark.parametrize(("last_in_time", "steps"), [(100, 10), (10, 10), (7, 7), (0, 0), (-1, 0)])
def test_as_many_steps_as_there_is_time_for(last_in_time, steps):
    assert pace.steps_in_time(10, lambda number: number > last_in_time) == steps


def test_the_clock_leaves_out_the_first_step_and_what_is_no_step(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(pace.time, "perf_counter", lambda: now[0])

    def step(seconds):
        now[0] += seconds
        return clock.tick()

    clock = pace.StepClock()
    assert not step(9.0)
    assert clock.seconds == 9.0  # better than nothing
    assert [step(2.0), step(2.0), step(2.0), step(2.0)] == [False, False, True, True]
    assert clock.seconds == 2.0
    now[0] += 100.0  # a validation
    clock.start()
    step(2.0)
    assert clock.seconds == 2.0


def test_steps_of_a_gpu_last_until_it_has_done_them(monkeypatch):
    """The calls that start them return at once."""
    now = [0.0]
    monkeypatch.setattr(pace.time, "perf_counter", lambda: now[0])
    clock = pace.StepClock()
    for _ in range(5):
        now[0] += 0.1
        clock.tick()
    now[0] += 7.6
    clock.settle()
    assert clock.seconds == pytest.approx(2.0)
    clock.settle()
    assert clock.seconds == pytest.approx(2.0)


def test_a_pace_that_begins_afresh_forgets_the_old_one(monkeypatch):
    """The first compiled step takes a minute, which says nothing about the others."""
    now = [0.0]
    monkeypatch.setattr(pace.time, "perf_counter", lambda: now[0])
    clocked = pace.Pace(1000, 0, 0.0, 1.0, lambda ahead: "time_limit" if now[0] + ahead > 200 else None)

    def steps(*seconds):
        for each in seconds:
            now[0] += each
            steps.taken += 1
            clocked.step_taken(steps.taken)

    steps.taken = 0
    clocked.start()
    steps(*[0.1] * 40)
    clocked.start(afresh=True)
    steps(60.0, *[0.1] * 10)
    assert clocked.shortened is None
    assert clocked.seconds_left(steps.taken) == pytest.approx(0.1 * (1000 - steps.taken))


def test_what_a_compiler_takes_is_no_pace(monkeypatch):
    """Another text length recompiles the model at the second step and once later; so does the first validation."""
    now, limit = [0.0], 900.0
    monkeypatch.setattr(pace.time, "perf_counter", lambda: now[0])
    clocked = pace.Pace(3000, 0, 1 / 100, 5.0, lambda ahead: "time_limit" if now[0] + ahead > limit else None)
    totals = set()
    clocked.start(afresh=True)
    for step in range(1, 301):
        now[0] += {1: 40.0, 2: 40.0, 210: 30.0}.get(step, 0.08)
        clocked.step_taken(step)
        totals.add(clocked.total_steps)
        assert clocked.stop_reason() is None
        if step % 100 == 0:
            seconds = 40.0 if step == 100 else 0.2
            now[0] += seconds
            clocked.validated(seconds)
            clocked.start()
    assert totals == {3000}
    assert clocked.seconds_left(300) == pytest.approx(0.08 * 2700)
    assert clocked.ahead == 0.2


def test_the_clock_is_looked_at_ever_more_seldom():
    clock = pace.StepClock()
    looks = [number for number in range(1, 101) if clock.tick()]
    assert looks[:3] == [4, 5, 6]
    assert looks[-1] - looks[-2] > 10


def test_the_first_validation_bends_no_schedule():
    """It waits for imports, so the forecast for the next validations begins with the second."""
    clocked = pace.Pace(1000, 1000, 0.1, 1.0, lambda ahead: "time_limit" if ahead > 60 else None)
    clocked.start()
    for step in range(1, 11):
        clocked.step_taken(step)
    clocked.validated(5.0)
    for step in range(11, 21):
        clocked.start()
        clocked.step_taken(step)
    assert (clocked.total_steps, clocked.shortened) == (1000, None)
    assert clocked.ahead < 1
    clocked.validated(2.0)
    assert clocked.ahead == 2.0


def test_a_training_that_goes_on_keeps_its_schedule_until_its_pace_is_known():
    """A learning rate that has fallen does not jump back for the first steps of another session."""
    clocked = pace.Pace(1000, 50, 0.0, 1.0, lambda ahead: None)
    clocked.start()
    totals = []
    for step in range(41, 46):
        clocked.step_taken(step)
        totals.append(clocked.total_steps)
    assert totals == [50, 50, 50, 1000, 1000]

"""The exception tree, gathering problems, and hints."""

import inspect
import pickle

import pytest

from automm_hpo import errors
from automm_hpo.errors import AutoMMHPOError, InvalidArgument, InvalidInput, MultipleProblems, NotSupported, Problems, did_you_mean, nearest, raised_in

CLASSES = [item for _, item in inspect.getmembers(errors, inspect.isclass) if issubclass(item, AutoMMHPOError)]


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_every_error_is_ours_and_a_builtin_and_in_the_tree(error):
    if error is not AutoMMHPOError:
        assert issubclass(error, (ValueError, OSError, RuntimeError, NotImplementedError))
    assert error.__name__ in errors.__doc__


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_errors_cross_process_borders(error):
    """Ray and multiprocessing pickle them."""
    raised = error([InvalidArgument("seed: wrong")]) if error is MultipleProblems else error("seed: wrong")
    copy = pickle.loads(pickle.dumps(raised))
    assert type(copy) is error
    assert str(copy) == str(raised)


def test_problems_raise_nothing_one_or_all():
    problems = Problems()
    problems.raise_any()
    with problems.gather():
        raise NotSupported("first")
    with pytest.raises(NotSupported, match=r"^first$"):
        problems.raise_any()
    with problems.gather():
        raise MultipleProblems([InvalidArgument("second"), InvalidArgument("third")])
    with pytest.raises(InvalidInput, match="3 problems, nothing was started") as caught:
        problems.raise_any()
    assert [str(problem) for problem in caught.value.problems] == ["first", "second", "third"]


def test_problems_gather_ours_only():
    problems = Problems()
    with pytest.raises(ZeroDivisionError), problems.gather():
        _ = 1 / 0
    assert not problems.found


def test_hints_ignore_case_and_keep_the_spelling():
    assert nearest("asha", ["FIFO", "ASHA"]) == ["ASHA"]
    assert nearest("ADAMW", ["adamw", "sgd"]) == ["adamw"]
    assert did_you_mean("num_trails", ["num_trials", "searcher"]) == " Did you mean num_trials?"
    assert did_you_mean("zzz", ["num_trials"]) == ""


HEAD = "Traceback (most recent call last):\n  File 'a.py', line 3\n    f()\n"


@pytest.mark.parametrize(
    ("text", "raised"),
    [
        (f"{HEAD}ValueError: two sizes:\n\t3\nsee https://...", "ValueError: two sizes: 3 see https://..."),
        (f"{HEAD}KeyError: 1\n\nDuring that:\n\n{HEAD}OSError: 2\n", "OSError: 2"),
        ("its process died:\nout of memory\n", "its process died: out of memory"),
        ("", ""),
    ],
)
def test_what_was_raised_is_found_in_a_traceback(text, raised):
    assert raised_in(text) == raised

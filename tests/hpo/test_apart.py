import logging
import random
import sys
import threading
import time
import warnings

import numpy as np
import pytest

from automm_hpo.hpo.searchers.apart import Apart


def draws():
    return np.random.rand(), random.random()


def test_it_draws_from_generators_of_its_own():
    np.random.seed(1), random.seed(1)
    expected = [draws() for _ in range(2)]
    np.random.seed(1), random.seed(1)
    apart, same, other = Apart(5), Apart(5), Apart(6)
    found = []
    for one in (apart, apart, same, other):
        with one():
            found.append(draws())
    assert found[0] == found[2] != found[1] and found[3] != found[0]
    assert [draws() for _ in range(2)] == expected


def test_nothing_of_it_is_seen_but_errors(capfd, caplog):
    with Apart(0)():
        print("printed")
        logging.getLogger("foreign").error("logged")
        warnings.warn("warned", stacklevel=1)
        np.random.seed(0)
    assert capfd.readouterr() == ("", "") and not caplog.records
    before = np.random.get_state()[1].tolist()
    with pytest.raises(ZeroDivisionError), Apart(0)():
        np.random.rand()
        1 / 0  # noqa: B018
    assert np.random.get_state()[1].tolist() == before and logging.root.manager.disable == logging.NOTSET
    print("seen")
    assert capfd.readouterr().out == "seen\n"


def test_what_other_threads_print_meanwhile_is_seen(capsys):
    """Ray prints the output of trials from a thread of its own."""
    with Apart(0)():
        other = threading.Thread(target=print, args=("from a trial",))
        other.start()
        other.join()
        print("from a library")
    assert capsys.readouterr().out == "from a trial\n"


def test_threads_that_take_turns_leave_all_as_it_was(capsys):
    """As with two searches on one Ray."""
    before, filters = sys.stdout, list(warnings.filters)

    def ask(apart):
        for _ in range(50):
            with apart():
                time.sleep(0.001)

    threads = [threading.Thread(target=ask, args=(Apart(seed),)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sys.stdout is before
    assert logging.root.manager.disable == logging.NOTSET
    assert warnings.filters == filters

"""torch's default generators, with several fits in one process."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import torch

from automm_hpo import MultiModalPredictor
from automm_hpo.rng import generators_unchanged, seeded


def test_fits_in_threads_come_to_what_they_come_to_alone(here):
    """Dropout draws from the default generator, which all threads share."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(160, 4)), columns=list("abcd"))
    table["y"] = (table["a"] * table["b"] > 0).astype(int)

    def fit(name, seed):
        hyperparameters = {"env.batch_size": 16, "optim.max_epochs": 4, "model.real_mlp.dropout": 0.4, "model.real_mlp.num_members": 1}
        predictor = MultiModalPredictor("y", verbosity=0).fit(table, hyperparameters=hyperparameters, seed=seed, save_path=name, tracking=None)
        return predictor.predict_proba(table, as_pandas=False)

    alone = [fit(f"alone{seed}", seed) for seed in (0, 1)]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(fit, ("a", "b"), (0, 1)))
    for own, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(own, other)


def test_the_last_thread_to_leave_restores_the_generator():
    before = torch.get_rng_state()
    first, second = generators_unchanged(torch.device("cpu")), generators_unchanged(torch.device("cpu"))
    first.__enter__()
    with seeded(3):
        drawn = torch.rand(2)
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert torch.equal(torch.get_rng_state(), before)
    other = torch.Generator()
    with seeded(3, other):
        assert torch.equal(torch.rand(2), drawn)
    assert torch.equal(torch.rand(2, generator=other), drawn)
    torch.set_rng_state(before)

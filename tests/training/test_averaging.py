import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.utils import ModelEmaV3

from automm_hpo.training.averaging import SOUPS, RunningAverage, greedy_soup, mix, uniform_soup
from automm_hpo.training.checkpoint import save_weights
from automm_hpo.training.evaluate import Validation, predict_logits


def validation(score: float, loss: float = 1.0) -> Validation:
    return Validation(torch.zeros(1, 1), score, score, loss)


@pytest.fixture
def paths(tmp_path):
    """Weight files with one number each: 0, 1, 2, 6, best first."""
    for number in (0, 1, 2, 6):
        save_file({"w": torch.tensor([float(number)])}, tmp_path / f"{number}.safetensors")
    return [tmp_path / f"{number}.safetensors" for number in (0, 1, 2, 6)]


def near(goal: float):
    """weights -> a validation whose score is higher the nearer the weight is to ``goal``."""
    return lambda weights: validation(-abs(float(weights["w"]) - goal))


def test_a_greedy_soup_takes_what_makes_it_better(paths):
    # 0 -> with 1: 0.5, better; with 2: 1.0, better; with 6: 2.25, worse
    chosen, weights, reached = greedy_soup(paths, validation(-1.1), near(1.1))
    assert chosen == [0, 1, 2]
    assert float(weights["w"]) == pytest.approx(1.0)
    assert reached.score == pytest.approx(-0.1)
    # from 2: 1 and 0 make it worse and are left out, 6 makes it better
    chosen, weights, _ = greedy_soup([paths[2], paths[1], paths[0], paths[3]], validation(-2.0), near(4.0))
    assert chosen == [0, 3]
    assert float(weights["w"]) == pytest.approx(4.0)


def test_a_greedy_soup_that_is_no_better_is_none(paths):
    assert greedy_soup(paths, validation(0.0), near(0.0)) is None
    assert greedy_soup(paths, validation(5.0), lambda weights: validation(5.0)) is None  # an equal score is not better
    assert greedy_soup(paths[:1], validation(0.0), near(9.0)) is None


def test_of_equal_scores_the_lower_loss_decides(paths):
    chosen, _, _ = greedy_soup(paths, validation(5.0, loss=1.0), lambda weights: validation(5.0, loss=1 / (1 + float(weights["w"]))))
    assert chosen == [0, 1, 2, 3]


def test_a_soup_ends_when_time_is_up(paths):
    answers = iter([validation(-1.0), None])
    chosen, weights, _ = greedy_soup(paths, validation(-2.0), lambda weights: next(answers))
    assert (chosen, float(weights["w"])) == ([0, 1], 0.5)
    assert all(soup(paths, validation(-2.0), lambda weights: None) is None for soup in SOUPS.values())


def test_a_uniform_soup_is_the_plain_average_if_it_is_better(paths):
    chosen, weights, _ = uniform_soup(paths, validation(-9.0), near(0.0))
    assert chosen == [0, 1, 2, 3]
    assert float(weights["w"]) == pytest.approx(9 / 4)
    assert uniform_soup(paths, validation(-1.0), near(0.0)) is None
    assert uniform_soup(paths[:1], validation(-1.0), near(0.0)) is None


def test_a_running_average_is_timms(trial):
    one = trial(optim__ema_decay=0.9, optim__max_epochs=2)
    state = one.state()
    expected = ModelEmaV3(state.model, 0.9, use_warmup=True)
    assert isinstance(state.average, RunningAverage)
    update = state.average.update

    def both(model, step):
        update(model, step)
        expected.update(model, step)

    state.average.update = both
    assert len(list(one.epochs(state))) == 2
    for (name, found), other in zip(state.average.module.state_dict().items(), expected.module.state_dict().values(), strict=True):
        assert torch.allclose(found, other, atol=1e-6), name


def test_batch_norm_is_averaged_and_its_counter_is_not():
    one, two = torch.nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3)
    two.running_mean.fill_(4.0)
    two.num_batches_tracked.fill_(7)
    mixed = mix(one.state_dict(), two.state_dict(), 0.25)
    assert (mixed["running_mean"] == 1.0).all()
    assert mixed["num_batches_tracked"] == 0
    assert (two.running_mean == 4.0).all()


@pytest.mark.parametrize("method", SOUPS)
def test_a_soup_of_real_epochs_is_a_model(trial, tmp_path, method):
    one = trial(optim__max_epochs=3)
    state = one.state()
    for number, _ in enumerate(one.epochs(state)):
        save_weights(state.model, tmp_path / f"{number}.safetensors")
    paths = [tmp_path / f"{number}.safetensors" for number in range(3)]
    epochs = [load_file(path) for path in paths]
    scores = iter(range(3))
    chosen, weights, _ = SOUPS[method](paths, validation(-1.0), lambda weights: validation(next(scores)))
    assert chosen == [0, 1, 2]
    for key, value in weights.items():
        assert value.dtype == epochs[0][key].dtype
        if value.is_floating_point():
            assert torch.allclose(value, torch.stack([epoch[key] for epoch in epochs]).mean(0), atol=1e-6)
    state.model.load_state_dict(weights)
    assert predict_logits(state.model, one.data.valid, one.config.env).isfinite().all()

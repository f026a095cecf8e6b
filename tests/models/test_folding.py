import pytest
import timm
import torch
from torch import nn

from automm_hpo.models.folding import fold_norms, shared_copy


def network(name):
    """A network whose statistics and scales differ from those of a fresh model."""
    torch.manual_seed(0)
    made = timm.create_model(name, num_classes=0).eval()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return made


def num_norms(module):
    return sum(isinstance(each, nn.BatchNorm2d) for each in module.modules())


@pytest.mark.parametrize(
    "name", ["test_resnet", "resnet18", "mobilenetv3_small_100", "tf_efficientnet_lite0", "regnetx_002", "ghostnet_100", "hrnet_w18_small"]
)
def test_every_norm_is_folded_and_the_answer_stays(name):
    one = network(name)
    before = {key: value.clone() for key, value in one.state_dict().items()}
    folded = fold_norms(one, torch.randn(1, 3, 64, 64))
    assert folded is not None
    assert num_norms(folded) == 0 < num_norms(one)
    images = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        expected, found = one(images), folded(images)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    assert all(torch.equal(value, before[key]) for key, value in one.state_dict().items())


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "nf_regnet_b0"])
def test_where_there_is_nothing_to_fold_there_is_no_copy(name):
    assert fold_norms(network(name), torch.randn(1, 3, 160, 160)) is None


def test_a_norm_behind_a_convolution_that_others_read_stays():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.second, self.last = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            x = self.conv(x)
            return self.last(self.second(self.norm(x) + x))

    one = Shared().eval()
    one.norm.running_var.fill_(3.0)
    one.last.running_var.fill_(3.0)
    sample = torch.randn(2, 3, 8, 8)
    folded = fold_norms(one, sample)
    assert (num_norms(folded), type(folded.norm)) == (1, nn.BatchNorm2d)
    assert torch.allclose(folded(sample), one(sample), atol=1e-5)


def test_a_norm_without_statistics_of_its_own_stays():
    one = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    assert fold_norms(one, torch.randn(2, 3, 8, 8)) is None


def test_a_copy_that_answers_otherwise_is_not_used():
    class Odd(nn.Module):
        """Reads its own weights, which tracing does not see."""

        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x):
            return self.norm(self.conv(x)) + self.conv.weight.sum()

    one = Odd().eval()
    one.norm.running_var.fill_(9.0)
    assert fold_norms(one, torch.randn(1, 3, 8, 8)) is None


def test_a_copy_shares_its_tensors():
    one = network("test_resnet")
    other = shared_copy(one)
    assert other is not one
    assert all(mine is theirs for mine, theirs in zip(one.parameters(), other.parameters(), strict=True))

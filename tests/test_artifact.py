"""The predictor's folder: saving is all or nothing, whichever members change, and older formats are refused."""

import os
from itertools import pairwise

import pytest
import torch
from torch import nn

from automm_hpo import artifact
from automm_hpo.artifact import Artifact, Member, load_artifact, save_artifact
from automm_hpo.config import Config
from automm_hpo.data.columns import ColumnTypes
from automm_hpo.data.encoders import Encoders
from automm_hpo.data.images import ImageGeometry
from automm_hpo.errors import NotAPredictor
from automm_hpo.files import MANIFEST, manifest_of, read_json, write_json
from automm_hpo.problem import Problem

PROBLEM = Problem("label", "multiclass", ("a", "b", "c"), "str")
ALWAYS = {MANIFEST, "predictor.json", "encoders.json", "model.safetensors"}


class TinyModel(nn.Linear):
    def __init__(self, num_outputs: int = 3, sources: dict | None = None) -> None:
        super().__init__(2, num_outputs)
        self.sources = {"tiny": {"made": "here"}} if sources is None else sources


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch):
    monkeypatch.setattr(artifact, "build_model", lambda config, features, num_outputs, load_weights, sources: TinyModel(num_outputs, sources))


def predictor(*numbers: int) -> Artifact:
    """An artifact with one member per number, which its weights equal; the summary's ``first`` is the first number."""
    members = []
    for number in numbers:
        model = TinyModel()
        nn.init.constant_(model.weight, number)
        members.append(Member(Config.from_flat({"optim.max_epochs": number}), model, 1 / len(numbers)))
    columns = ColumnTypes({"image": "image_path"}, {"image": "because"})
    return Artifact(PROBLEM, columns, Encoders({"image": "image_path"}, ImageGeometry(8)), tuple(members), "accuracy", "log_loss", {"first": numbers[0]})


def numbers_of(stored: Artifact) -> tuple[int, ...]:
    """The inverse of ``predictor``; checks that all parts come from the same save."""
    for member in stored.members:
        assert (member.model.weight == member.config.optim.max_epochs).all()
        assert member.weight == pytest.approx(1 / len(stored.members))
        assert member.model.sources == TinyModel().sources
    assert stored.summary["first"] == stored.members[0].config.optim.max_epochs
    return tuple(member.config.optim.max_epochs for member in stored.members)


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_a_gpu_that_is_full_leaves_the_model_on_the_cpu(monkeypatch):
    def to(model, device=None, **options):
        if getattr(device, "type", "") == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return model

    monkeypatch.setattr(TinyModel, "to", to)
    monkeypatch.setattr(TinyModel, "folded", lambda model: model, raising=False)
    monkeypatch.setattr(artifact, "pick_device", lambda env: torch.device("cuda"))
    [member] = predictor(1).members
    with pytest.warns(UserWarning, match="memory is full: the model predicts on the CPU"):
        assert member.ready().predicting is member.model


@pytest.mark.parametrize("numbers", [(1,), (1, 2), (5, 4, 3, 2, 1)])
def test_what_is_saved_is_loaded(tmp_path, numbers):
    save_artifact(predictor(*numbers), tmp_path)
    stored = load_artifact(tmp_path)
    assert numbers_of(stored) == numbers
    assert (stored.problem, stored.eval_metric, stored.validation_metric) == (PROBLEM, "accuracy", "log_loss")
    assert names(tmp_path) == ALWAYS | {f"model-{number}.safetensors" for number in range(1, len(numbers))}


def test_files_of_others_stay(tmp_path):
    """Even those whose names resemble ours."""
    save_artifact(predictor(1, 2), tmp_path)
    others = {"model-x.safetensors", "model-01.safetensors", "my-model-1.safetensors", "model-1.safetensors.bak", "notes.txt"}
    for name in others:
        (tmp_path / name).write_text("mine")
    save_artifact(predictor(3), tmp_path)
    assert names(tmp_path) == ALWAYS | others


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    ("commits", "num_steps"),
    [([(1,), (2, 3, 4), (5,)], 30), pytest.param([(1,), (2, 3, 4), (5, 6), (7, 8, 9), (10,), (11,)], 80, marks=pytest.mark.slow)],
    ids=["three commits", "six commits"],
)
def test_a_kill_between_any_two_steps_leaves_the_old_or_the_new(tmp_path, monkeypatch, commits, num_steps):
    """The process may die at every rename, deletion, flush and weights file; the commits differ in their number of members."""
    steps, kill_at = 0, None

    def counted(function, torn=lambda *args: None):
        def call(*args, **kwargs):
            nonlocal steps
            steps += 1
            if steps == kill_at:
                torn(*args)
                raise Killed
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(os, "replace", counted(os.replace))
    monkeypatch.setattr(os, "unlink", counted(os.unlink))
    monkeypatch.setattr(os, "fsync", counted(lambda descriptor: None))
    monkeypatch.setattr(artifact, "save_weights", counted(artifact.save_weights, torn=lambda model, path: path.write_bytes(b"torn")))

    def commit(folder, done):
        for numbers in commits[len(done) :]:
            save_artifact(predictor(*numbers), folder)
            done.append(numbers)

    commit(tmp_path / "uninterrupted", [])
    total = steps
    assert total > num_steps
    seen = set()
    for at in range(1, total + 1):
        steps, kill_at = 0, at
        folder, done = tmp_path / str(at), []
        with pytest.raises(Killed):
            commit(folder, done)
        kill_at = None
        old, new = [(), *commits][len(done)], commits[len(done)]
        try:
            found = numbers_of(load_artifact(folder))
        except NotAPredictor:  # only before the first commit
            found = ()
        assert found in (old, new)
        seen.add((old, new, found))
        commit(folder, done)  # the next run continues despite the leftovers
        assert numbers_of(load_artifact(folder)) == commits[-1]
        assert names(folder) == ALWAYS
    # the kills hit before and after the seal of every commit
    assert seen == {(old, new, found) for old, new in pairwise([(), *commits]) for found in (old, new)}


def test_a_read_only_folder_with_a_sealed_commit_loads(tmp_path, monkeypatch):
    save_artifact(predictor(1, 2, 3), tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(artifact, "_roll_forward", lambda folder: None)
        save_artifact(predictor(4, 5), tmp_path)
    before = names(tmp_path)
    assert numbers_of(load_artifact(tmp_path)) == (4, 5)
    assert names(tmp_path) == before


@pytest.mark.parametrize("name", [MANIFEST, f"{MANIFEST}.new"])
@pytest.mark.parametrize("listed", ["../../victim", "model-2.safetensors", "model-01.safetensors", "search/settings.json"])
def test_a_manifest_can_name_no_other_files(tmp_path, name, listed):
    """Neither for reading nor for renaming, when a commit is completed."""
    folder = tmp_path / "a" / "predictor"
    save_artifact(predictor(1), folder)
    write_json(folder / name, read_json(folder / MANIFEST) | {listed: "0" * 64})
    (tmp_path / "victim.new").write_text("not ours")
    with pytest.raises(NotAPredictor, match=r"does not list predictor\.json, encoders\.json, model\.safetensors"):
        load_artifact(folder)
    if name != MANIFEST:
        with pytest.raises(NotAPredictor):
            save_artifact(predictor(2), folder)
    assert (tmp_path / "victim.new").exists()


@pytest.mark.parametrize("version", [1, 2])
def test_older_formats_are_refused_by_name(tmp_path, version):
    """Their weights have other names; the version that wrote them can still read them."""
    save_artifact(predictor(7), tmp_path)
    description = read_json(tmp_path / "predictor.json") | {"format_version": version}
    description["versions"]["automm_hpo"] = "0.1.0"
    write_json(tmp_path / "predictor.json", description)
    write_json(tmp_path / MANIFEST, manifest_of(tmp_path, ["predictor.json", "encoders.json", "model.safetensors"]))
    with pytest.raises(NotAPredictor, match=rf"format {version} \(written by automm_hpo 0\.1\.0\), and this version reads 3: fit again"):
        load_artifact(tmp_path)

"""The training loop against a bare torch loop that does the same work: what do checkpoints, log, resumability and the rest cost?

Both train test_resnet from random weights on 1,600 images of the shipped Fashion-MNIST and validate on 400, at 32 px, batch 32, one torch thread,
3 epochs. OURS is ``run_trial``, as a trial of a search runs it: mapped cache, checksummed resumable checkpoints, log. FLOOR is the loop below, as one
would write it by hand for this one task: the same pixels in memory, the same crop, mirror, normalisation, schedule, clipping and fused AdamW, a
validation and a ``torch.save`` of weights and optimizer after every epoch, of which the last two are kept.

Images are decoded before the clock starts. Building the model is inside the clock for both. Runs alternate in this process, after one of each that is
not counted. The ratio is taken pair by pair; that of CPU seconds says the same where other processes disturb the clock, waiting for the disk apart.
"""

from __future__ import annotations

import cProfile
import math
import pstats
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from common import parser, print_figure, print_header, print_machine
from timm.optim import param_groups_weight_decay

from automm_hpo.config import Config
from automm_hpo.data.cache import open_cache, store_cache
from automm_hpo.data.encoders import EncodedTable
from automm_hpo.data.features import Features
from automm_hpo.data.images import cover
from automm_hpo.data.split import train_valid_split
from automm_hpo.datasets import fashion_mnist
from automm_hpo.hpo.records import SearchRecords
from automm_hpo.hpo.training import Training
from automm_hpo.hpo.trial import TrialTask, run_trial
from automm_hpo.metrics import find_metric
from automm_hpo.models import image_spec
from automm_hpo.problem import infer_problem

SIZE, BATCH, EPOCHS, LR, WEIGHT_DECAY, CLIP, WARMUP = 32, 32, 3, 3e-3, 1e-3, 1.0, 0.1
SHIFT = SIZE // 16  # the window may leave the picture by so many pixels
CONFIG = Config.from_flat(
    {
        "model.timm_image.checkpoint_name": "test_resnet",
        "model.timm_image.pretrained": False,
        "model.timm_image.image_size": SIZE,
        "model.timm_image.train_transforms": ["random_crop", "random_horizontal_flip"],
        "env.batch_size": BATCH,
        "env.accelerator": "cpu",
        "optim.max_epochs": EPOCHS,
        "optim.lr": LR,
        "optim.weight_decay": WEIGHT_DECAY,
        "optim.gradient_clip_val": CLIP,
        "optim.warmup_steps": WARMUP,
    }
)
Run = Callable[[], float]
"""Trains once; gives the last validation accuracy."""


def prepare(folder: Path) -> tuple[Run, Run]:
    """Images on disk and in caches; gives OURS and FLOOR."""
    table, _ = fashion_mnist(folder / "images")
    problem = infer_problem(table["label"], "label")
    splits = dict(zip(("train", "valid"), train_valid_split(table, problem, 0.2, seed=0), strict=True))
    geometry = cover([image_spec(CONFIG)])
    for name, rows in splits.items():
        store_cache(folder / "search/cache", name, EncodedTable.of_images([[path] for path in rows["image"]], problem.encode(rows["label"])), geometry)
    records = SearchRecords(folder / "search")
    task = TrialTask(records.folder, Training(problem, Features(num_images=1), find_metric("accuracy"), seed=0, num_to_keep=2))
    caches = {name: open_cache(folder / "search/cache", name) for name in splits}
    tensors = {name: (cache.images[:, 0].clone(), cache.target.clone()) for name, cache in caches.items()}

    def ours() -> float:
        number = records.open_trial({}, {}, CONFIG.flat()).number
        return [step.result.metric for step in run_trial(task, number) if step.result][-1]

    def floor() -> float:
        return bare_loop(*tensors["train"], *tensors["valid"], folder / "floor")

    return ours, floor


def bare_loop(images: torch.Tensor, target: torch.Tensor, valid_images: torch.Tensor, valid_target: torch.Tensor, folder: Path) -> float:
    """(N, S, S, 3) uint8, (N,) int64, and the same for validation -> the last validation accuracy."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=10).to(memory_format=torch.channels_last)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(param_groups_weight_decay(model, WEIGHT_DECAY), lr=LR, fused=True)
    cfg = model.pretrained_cfg
    mean, std = (255 * torch.tensor(cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    rng = torch.Generator().manual_seed(0)
    start = (valid_images.shape[1] - SIZE) // 2
    valid_images = valid_images[:, start : start + SIZE, start : start + SIZE].permute(0, 3, 1, 2)
    steps_per_epoch = len(images) // BATCH
    total_steps = EPOCHS * steps_per_epoch
    step = 0
    for epoch in range(EPOCHS):
        model.train()
        order = torch.randperm(len(images), generator=rng)
        train_loss = torch.zeros(())
        for rows in order[: steps_per_epoch * BATCH].split(BATCH):
            view = crop_and_mirror(images, rows, rng).float().sub_(mean).div_(std)
            loss = F.cross_entropy(model(view), target[rows])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, CLIP)
            for group in optimizer.param_groups:
                group["lr"] = LR * schedule(step, total_steps)
            optimizer.step()
            optimizer.zero_grad()
            train_loss += loss.detach()
            step += 1
        model.eval()
        with torch.inference_mode():
            logits = torch.cat([model(part.float().sub_(mean).div_(std)) for part in valid_images.split(4 * BATCH)])
            accuracy = (logits.argmax(1) == valid_target).float().mean().item()
            valid_loss = F.cross_entropy(logits, valid_target).item()
        note = {"accuracy": accuracy, "train_loss": train_loss.item() / steps_per_epoch, "valid_loss": valid_loss}
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, **note}, folder / f"{epoch}.pt")
        (folder / f"{epoch - 2}.pt").unlink(missing_ok=True)
    return accuracy


def crop_and_mirror(images: torch.Tensor, rows: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """(N, S, S, 3) uint8, (B,) -> (B, 3, SIZE, SIZE), edge pixels repeated; of the ways tried (unfold, slices, one gather of three axes) the fastest."""
    side, offsets = images.shape[1], torch.arange(SIZE)
    corner = torch.randint(-SHIFT, side - SIZE + SHIFT + 1, (2, len(rows), 1), generator=rng)
    y, x = (corner + offsets).clamp_(0, side - 1)  # (B, SIZE) each
    x = torch.where(torch.rand(len(rows), 1, generator=rng) < 0.5, x.flip(1), x)
    pixels = (rows[:, None] * side + y)[:, :, None] * side + x[:, None, :]  # (B, SIZE, SIZE)
    return images.view(-1, 3).index_select(0, pixels.flatten()).view(len(rows), SIZE, SIZE, 3).permute(0, 3, 1, 2)


def schedule(step: int, total_steps: int) -> float:
    warmup = round(WARMUP * total_steps)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total_steps - warmup)))


def clocked(run: Run) -> tuple[float, float, float]:
    """(seconds, CPU seconds, accuracy)."""
    started, started_cpu = time.perf_counter(), time.process_time()
    accuracy = run()
    return time.perf_counter() - started, time.process_time() - started_cpu, accuracy


def print_profile(ours: Run, floor: Run) -> None:
    """Where the difference lies: torch's operators by self CPU time side by side, then our Python by time in each function."""
    milliseconds: list[dict[str, float]] = []
    for run in (ours, floor):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            run()
        milliseconds.append({event.key: event.self_cpu_time_total / 1e3 for event in profile.key_averages()})
    first, second = milliseconds
    print(f"\n{'torch operator, self CPU ms of a run':<50}{'ours':>10}{'floor':>10}{'difference':>12}")
    print(f"{'all':<50}{sum(first.values()):>10.1f}{sum(second.values()):>10.1f}{sum(first.values()) - sum(second.values()):>12.1f}")
    for key in sorted(first | second, key=lambda key: -abs(first.get(key, 0) - second.get(key, 0)))[:15]:
        print(f"{key[:48]:<50}{first.get(key, 0):>10.1f}{second.get(key, 0):>10.1f}{first.get(key, 0) - second.get(key, 0):>12.1f}")
    for name, run in (("ours", ours), ("floor", floor)):
        with cProfile.Profile() as python:
            run()
        print(f"\nPython functions of {name}, by time in the function itself")
        pstats.Stats(python).sort_stats("tottime").print_stats(15)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--profile", action="store_true", help="also show where the time goes (the figures are taken without it)")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    print_machine()
    with tempfile.TemporaryDirectory() as folder:
        ours, floor = prepare(Path(folder))
        clocked(ours), clocked(floor)  # imports, allocator, kernels
        pairs = [(clocked(ours), clocked(floor)) for _ in range(options.runs)]
        images = EPOCHS * 1_600
        print_header(options.runs)
        print_figure("ours, training images/s", [images / a[0] for a, _ in pairs], "images/s", digits=0)
        print_figure("floor, training images/s", [images / b[0] for _, b in pairs], "images/s", digits=0)
        print_figure("ours / floor", [b[0] / a[0] for a, b in pairs], "", "goal >= 0.95", digits=3)
        print_figure("ours / floor by CPU seconds", [b[1] / a[1] for a, b in pairs], "", digits=3)
        print_figure("ours, validation accuracy (the same every run: one seed)", [a[2] for a, _ in pairs], "", digits=3)
        print_figure("floor, validation accuracy", [b[2] for _, b in pairs], "", digits=3)
        if options.profile:
            print_profile(ours, floor)


if __name__ == "__main__":
    main()

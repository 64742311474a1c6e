"""Trains one of three models for some steps and tells what they took. Unmodified DDP; knows of no shim.

Writes {"cpu_s": forward and backward, "step_s": optimizer, "wall_s": per step, "pss_kb": ...}, medians, to OUT.RANK."""

import argparse
import ctypes
import json
import time
from itertools import pairwise
from statistics import median

import torch
import torch.distributed as dist
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("model", choices=["conv", "transformer", "mlp"])
parser.add_argument("--steps", type=int, default=12)
parser.add_argument("--skip", type=int, default=6)
parser.add_argument("--out", required=True)
options = parser.parse_args()


class Bottleneck(nn.Module):
    """ResNet-50's building block."""

    def __init__(self, width, inner, stride):
        super().__init__()
        out = inner * 4
        self.path = nn.Sequential(
            *(nn.Conv2d(width, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU()),
            *(nn.Conv2d(inner, inner, 3, stride, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU()),
            *(nn.Conv2d(inner, out, 1, bias=False), nn.BatchNorm2d(out)),
        )
        short = nn.Sequential(nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        self.short = short if width != out or stride > 1 else nn.Identity()

    def forward(self, x):
        return torch.relu(self.path(x) + self.short(x))


def conv():
    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    width = 64
    for inner, count, first in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for number in range(count):
            layers.append(Bottleneck(width, inner, first if number == 0 else 1))
            width = inner * 4
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 100)]
    return nn.Sequential(*layers), torch.randn(8, 3, 128, 128)


def transformer():
    layer = nn.TransformerEncoderLayer(256, 4, 1024, dropout=0.0, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)), torch.randn(8, 128, 256)


def mlp():
    sizes = [512, 2048, 2048, 2048, 2048, 10]
    layers = [each for a, b in pairwise(sizes) for each in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1]), torch.randn(128, 512)


def pss_kb():
    ctypes.CDLL(None).malloc_trim(0)  # what is free again is held by nobody
    with open("/proc/self/smaps_rollup") as lines:
        return int(next(line.split()[1] for line in lines if line.startswith("Pss:")))


torch.manual_seed(1)
dist.init_process_group("gloo")
model, batch = {"conv": conv, "transformer": transformer, "mlp": mlp}[options.model]()
wrapped = nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
cpu, steps, walls = [], [], []
for _ in range(options.steps):
    wall, began = time.perf_counter(), time.process_time()
    optimizer.zero_grad()
    wrapped(batch).square().mean().backward()
    between = time.process_time()
    optimizer.step()
    ended = time.process_time()
    cpu.append(between - began)
    steps.append(ended - between)
    walls.append(time.perf_counter() - wall)
held = pss_kb()
dist.barrier()
state = sum(v.numel() * v.element_size() for s in optimizer.state.values() for v in s.values() if torch.is_tensor(v))
told = {
    "cpu_s": median(cpu[options.skip :]),
    "step_s": median(steps[options.skip :]),
    "total_s": median(a + b for a, b in zip(cpu[options.skip :], steps[options.skip :], strict=True)),
    "wall_s": median(walls[options.skip :]),
    "pss_kb": held,
    "parameter_bytes": sum(p.numel() * p.element_size() for p in model.parameters()),
    "state_bytes": state,
}
with open(f"{options.out}.{dist.get_rank()}", "w") as file:
    json.dump(told, file)
dist.destroy_process_group()

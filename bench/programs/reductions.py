"""Alternates the exact all-reduce and the one of the real Gloo group behind it; tells the ratio of their times.

Bits are compared too: with two ranks both must give the same ones."""

import json
import sys
import time
from statistics import median

import torch
import torch.distributed as dist

torch.set_num_threads(1)
megabytes, rounds, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
dist.init_process_group("gloo")
rank, size = dist.get_rank(), dist.get_world_size()
world = dist.group.WORLD
tensor = torch.randn(megabytes << 18, generator=torch.Generator().manual_seed(rank))
mine = tensor.clone()


def exact():
    dist.all_reduce(mine)


def gloo():
    world._real.allreduce([mine]).wait()


def timed(reduce):
    mine.copy_(tensor)
    dist.barrier()
    began = time.perf_counter()
    reduce()
    dist.barrier()
    return time.perf_counter() - began, mine.clone()


for reduce in (exact, gloo):
    timed(reduce)
took = {exact: [], gloo: []}
for _ in range(rounds):
    results = []
    for reduce in (exact, gloo):
        seconds, result = timed(reduce)
        took[reduce].append(seconds)
        results.append(result)
    assert size > 2 or torch.equal(*results)
ratios = [a / b for a, b in zip(took[exact], took[gloo], strict=True)]
with open(f"{out}.{rank}", "w") as file:
    json.dump({"ratios": ratios, "exact_s": median(took[exact]), "gloo_s": median(took[gloo])}, file)
dist.barrier()
dist.destroy_process_group()

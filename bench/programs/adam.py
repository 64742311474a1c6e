"""Trains a wide network with Adam under DDP, and says each step: most of its memory is equal on every rank."""

import sys
import time

import torch
import torch.distributed as dist

width, layers = int(sys.argv[1]), int(sys.argv[2])
dist.init_process_group("gloo")
torch.manual_seed(0)
model = torch.nn.Sequential(*(torch.nn.Linear(width, width) for _ in range(layers)))
parallel = torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
optimizer = torch.optim.Adam(parallel.parameters(), lr=1e-4)
torch.manual_seed(1 + dist.get_rank())
step = 0
while True:
    optimizer.zero_grad()
    parallel(torch.randn(8, width)).square().mean().backward()
    optimizer.step()
    step += 1
    print(step, time.time(), flush=True)

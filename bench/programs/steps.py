"""Trains with steps of about a given length until it is ended; appends when each step began and what it took."""

import argparse
import os
import time

import torch
import torch.distributed as dist

parser = argparse.ArgumentParser()
parser.add_argument("--width", type=int, required=True)
parser.add_argument("--repeat", type=int, default=1)
parser.add_argument("--out", required=True)
options = parser.parse_args()

torch.manual_seed(0)
distributed = "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
if distributed:
    dist.init_process_group("gloo")
model = torch.nn.Sequential(*(torch.nn.Linear(options.width, options.width) for _ in range(4)))
if distributed:
    model = torch.nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
batch = torch.randn(64, options.width)
took = os.open(f"{options.out}.{dist.get_rank() if distributed else 0}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
while True:
    began, wall, burnt = time.time(), time.perf_counter(), time.process_time()
    for _ in range(options.repeat - 1):
        with torch.no_grad():
            model(batch)
    optimizer.zero_grad()
    model(batch).square().mean().backward()
    optimizer.step()
    os.write(took, b"%.6f %.6f %.6f\n" % (began, time.perf_counter() - wall, time.process_time() - burnt))

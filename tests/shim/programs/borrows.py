"""Says how many results DDP's reducer has borrowed in three steps of three buckets. Knows of the shim: counts there."""

import sys

import torch
import torch.distributed as dist
from torch import nn

dist.init_process_group("gloo")
model = nn.Sequential(*[nn.Linear(300, 300) for _ in range(3)])
wrapped = nn.parallel.DistributedDataParallel(model, bucket_cap_mb=0.1)
sums = sys.modules["ergo_shim.sums"].GroupSums
lend, lent = sums.lend, []
sums.lend = lambda self, operation: lent.append(lend(self, operation)) or lent[-1]
for _ in range(3):
    wrapped(torch.ones(2, 300)).sum().backward()
print(len(lent), all(lent))
dist.destroy_process_group()

"""Backward passes of DDP of every kind in which its reducer might read sums where they lie. Knows of no shim.

One line for each kind, with a digest of gradients and weights. Waits at the end of one that failed until FOLDER/go is
there, where a folder is given."""

import hashlib
import os
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.checkpoint import checkpoint

torch.set_num_threads(1)
rank = int(os.environ["RANK"])
MANY = 700  # buckets of one pass


class Model(nn.Module):
    def __init__(self, reentrant=False):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(64, 300), nn.Linear(300, 300), nn.Linear(300, 64)])
        self.reentrant = reentrant

    def forward(self, x):
        x = torch.tanh(self.layers[0](x))
        inner = lambda held: torch.tanh(self.layers[1](held))  # noqa: E731
        x = checkpoint(inner, x, use_reentrant=True) if self.reentrant else inner(x)
        return self.layers[2](x)


class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.many = nn.ParameterList([nn.Parameter(torch.full((4,), 1 / (1 + at))) for at in range(MANY)])

    def forward(self, x):
        return x.mean() * torch.stack(list(self.many)).sum()


def after(state, bucket):
    """A hook of the program's that looks at the buffer that was reduced in place, not at what the future gives."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda _: bucket.buffer().clone())


def refuse(gradient):
    raise ValueError("no gradient for this one")


def train(kind, steps=4):
    torch.manual_seed(1)
    model = Wide() if kind == "many" else Model(kind == "reentrant")
    terms = {"bucket_cap_mb": 1e-5 if kind == "many" else 0.1, "gradient_as_bucket_view": kind == "views"}
    terms["static_graph"] = kind == "static"
    terms["find_unused_parameters"] = kind == "unused"
    wrapped = nn.parallel.DistributedDataParallel(model, **terms)
    if kind == "hook":
        wrapped.register_comm_hook(None, after)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(steps):
        optimizer.zero_grad(set_to_none=step % 2 == 0)
        inputs = torch.randn(8, 64, generator=torch.Generator().manual_seed(10 * step + rank))
        if kind == "fails" and step == 2:
            model.layers[0].weight.register_hook(refuse)
        wrapped(inputs).square().mean().backward()
        seen.update(b"".join(p.grad.numpy().tobytes() for p in model.parameters()))
        optimizer.step()
    seen.update(b"".join(p.detach().numpy().tobytes() for p in model.parameters()))


seen = hashlib.sha256()
dist.init_process_group("gloo", timeout=timedelta(seconds=60))
for kind in ("plain", "views", "hook", "unused", "static", "reentrant", "many", "fails"):
    failed = None
    try:
        train(kind)
    except ValueError as error:
        failed = error  # kept, and with it all frames of the pass that failed
    print(kind, failed, seen.hexdigest()[:16], flush=True)
while len(sys.argv) > 1 and not os.path.exists(sys.argv[1] + "/go"):
    time.sleep(0.01)
train("plain")
print("after it", seen.hexdigest()[:16], flush=True)
dist.barrier()
dist.destroy_process_group()

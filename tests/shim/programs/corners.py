"""An ordinary two-rank program whose second argument says what is unusual about it. Knows nothing of any shim."""

import os
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

case, signal = sys.argv[1], sys.argv[2]
rank = int(os.environ["RANK"])
torch.set_num_threads(1)


def wait_for(name):
    while not os.path.exists(f"{signal}/{name}"):
        time.sleep(0.01)


def say(*words):
    print(*words, flush=True)


def late():
    """Rank 1 does not come to the third collective before it is told to."""
    for n in range(3):
        tensor = torch.ones(3) * (rank + n)
        if n == 2 and rank == 1:
            wait_for("come")
        dist.all_reduce(tensor)
        say(n, tensor.tolist())


def held_long():
    """Timeouts of two seconds, in a program that is held for longer than that."""
    group = dist.new_group([0, 1], timeout=timedelta(seconds=2))
    for n in range(400):
        tensor = torch.ones(2) * n
        dist.all_reduce(tensor, group=group, async_op=True).wait(timedelta(seconds=2))
        dist.monitored_barrier(timeout=timedelta(seconds=2))
        time.sleep(0.005)
        enough = torch.tensor([float(os.path.exists(f"{signal}/enough"))])
        dist.all_reduce(enough)  # both leave at the same turn
        if enough.item():
            break
    say("held long", tensor[0].item() > 0)


def lost():
    """Rank 1 dies; rank 0 is inside the backward pass of DDP, or in a plain collective."""
    model = nn.parallel.DistributedDataParallel(nn.Linear(4, 2)) if signal.endswith("ddp") else None
    dist.barrier()
    if rank == 1:
        os._exit(9)
    try:
        if model is not None:
            model(torch.ones(2, 4)).sum().backward()
        else:
            dist.all_reduce(torch.ones(2))
    except RuntimeError as error:
        say("raised", "closed by peer" in str(error).lower() or "reset by peer" in str(error).lower())
        os._exit(3)


def forked():
    """A child forked from a rank lives through a cut; it holds no socket and no page of the rank's."""
    dist.barrier()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        while not os.path.exists(f"{signal}/enough") and os.getppid() == parent:
            time.sleep(0.01)
        os._exit(0)
    say("child", child)
    votes = torch.zeros(1)
    while not votes.item():  # both leave at the same turn: nobody looks for himself
        dist.all_reduce(torch.ones(1))
        time.sleep(0.01)
        votes = torch.tensor([float(os.path.exists(f"{signal}/enough"))])
        dist.all_reduce(votes)
    say("child ended", os.waitpid(child, 0)[1])


def freed():
    """Fifty megabytes of the heap that are free again, below something that is not."""
    blocks = [bytearray(os.urandom(100_000)) for _ in range(500)]
    last = blocks.pop()
    del blocks
    dist.all_reduce(torch.ones(1))
    say("freed", len(last))
    while not os.path.exists(f"{signal}/enough"):
        time.sleep(0.01)
    dist.barrier()


def compiled():
    """Collectives inside compiled functions, and the operator that compiled programs use in place of all-gather."""
    import torch.distributed._functional_collectives as funcol

    group = dist.group.WORLD

    @torch.compile(backend="aot_eager", fullgraph=True)
    def functional(tensor):
        return funcol.wait_tensor(funcol.all_reduce(tensor * 2, "sum", group)) + 1

    @torch.compile(backend="aot_eager")
    def plain(tensor):
        dist.all_reduce(tensor)
        return tensor * 2

    say(functional(torch.ones(2) * (rank + 1)).tolist(), plain(torch.ones(2) * (rank + 1)).tolist())
    model = torch.compile(nn.parallel.DistributedDataParallel(nn.Linear(3, 1)), backend="aot_eager")
    model(torch.ones(2, 3) * rank).sum().backward()
    say(model.module.weight.grad.tolist())
    optimizer = torch.optim.Adam(model.parameters(), foreach=True)
    torch.compile(optimizer.step, backend="aot_eager")()
    say(model.module.weight.tolist() != model.module.weight.grad.tolist())
    gathered = torch.empty(4)
    gather = torch.ops._c10d_functional.all_gather_into_tensor_out
    torch.ops._c10d_functional.wait_tensor(gather(torch.ones(2) * rank, 2, group.group_name, out=gathered))
    say(gathered.tolist())


dist.init_process_group("gloo", timeout=timedelta(seconds=60))
{"compiled": compiled, "freed": freed, "late": late, "held_long": held_long, "lost": lost, "forked": forked}[case]()
dist.destroy_process_group()

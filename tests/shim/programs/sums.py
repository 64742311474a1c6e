"""An ordinary program: reductions of every kind, type and size; a digest of all results. Knows nothing of any shim."""

import hashlib
import os
import random
import sys
import threading
import time
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import ReduceOp

torch.set_num_threads(1)
rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
INTEGERS = [torch.int8, torch.uint8, torch.int32, torch.int64]
NARROW = [torch.float8_e4m3fn, torch.float8_e5m2]
SIZES = [1, 7, 1000, 20_000, 300_001]
seen = hashlib.sha256()


def keep(*tensors):
    for tensor in tensors:
        seen.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


def mine(count, dtype, salt=0):
    generator = torch.Generator().manual_seed(1000 * rank + count + salt)
    if dtype.is_floating_point:
        return torch.randn(count, generator=generator).to(dtype)
    if dtype is torch.bool:
        return torch.rand(count, generator=generator) > 0.5
    return torch.randint(0, 5, (count,), generator=generator).to(dtype)


def types():
    for dtype in [*FLOATS, *INTEGERS, *NARROW, torch.bool]:
        for count in SIZES:
            for op in [ReduceOp.SUM, ReduceOp.PRODUCT, ReduceOp.MIN, ReduceOp.MAX, ReduceOp.AVG]:
                if dtype in NARROW and op is not ReduceOp.SUM:
                    continue
                tensor = mine(count, dtype)
                dist.all_reduce(tensor, op=op)
                keep(tensor)
    for op in [ReduceOp.BAND, ReduceOp.BOR, ReduceOp.BXOR]:
        tensor = mine(1000, torch.int32)
        dist.all_reduce(tensor, op=op)
        keep(tensor)
    tensor = mine(5000, torch.float32)
    dist.all_reduce(tensor, op=dist._make_nccl_premul_sum(0.3))
    keep(tensor)


def forms():
    tensor = mine(40_000, torch.float32)
    dist.reduce(tensor, dst=size - 1)
    keep(tensor if rank == size - 1 else mine(1, torch.float32))
    shard, shard2 = torch.empty(10_001), torch.empty(10_001)
    dist.reduce_scatter(shard, list(mine(10_001 * size, torch.float32).chunk(size)))
    dist.reduce_scatter_tensor(shard2, mine(10_001 * size, torch.float32), op=ReduceOp.AVG)
    keep(shard, shard2)
    assert torch.equal(shard / size, shard2)
    odd = mine(600, torch.float32).reshape(20, 30).t()
    dist.all_reduce(odd)
    keep(odd)
    with dist._coalescing_manager():
        parts = [mine(50, torch.float32, i) for i in range(3)]
        for part in parts:
            dist.all_reduce(part)
    keep(*parts)
    leaf = mine(100, torch.float32).requires_grad_()
    square = (leaf**2).sum()
    with torch.no_grad():
        dist.all_reduce(leaf)
    square.backward()  # written to unseen, as by torch's own backends
    keep(leaf.grad)


def order():
    tensors = [mine(70_000 + i, torch.float32, i) for i in range(8)]
    works = [dist.all_reduce(tensor, async_op=True) for tensor in tensors]
    futures = [works[i].get_future() for i in (0, 3)]
    then = futures[1].then(lambda done: done.value()[0] * 2)
    for work in reversed(works[1:]):
        work.wait()
    while not works[0].is_completed():
        pass
    keep(*tensors, futures[0].wait()[0], then.wait())


def groups():
    rows = [dist.new_group([r for r in range(size) if r % 2 == side]) for side in (0, 1)]
    pair = dist.new_group([0, size - 1])
    own = rows[rank % 2]
    for count in (10, 100_000):
        tensor, world = mine(count, torch.float32), mine(count, torch.float32, 5)
        inside = dist.all_reduce(tensor, group=own, async_op=True)
        if rank in (0, size - 1):
            both = mine(count, torch.float32, 9)
            dist.all_reduce(both, group=pair)
            keep(both)
        dist.all_reduce(world)
        inside.wait()
        keep(tensor, world)


def disorder():
    """Members come in other orders than theirs, each from a thread of its own, which waits for no turn."""

    def reduce_late():
        dice = random.Random(7)
        for number in range(24):
            late = [dice.choice((0.0, 0.003, 0.01)) for _ in range(size)]
            tensor = mine(80_000, dice.choice([torch.float32, torch.float16, torch.int32]), number)
            time.sleep(late[rank])
            dist.all_reduce(tensor, op=dice.choice([ReduceOp.SUM, ReduceOp.AVG, ReduceOp.MAX]))
            keep(tensor)

    def reduce_at_once():
        for number in range(200):
            tensor = mine(3_000, torch.float32, number)
            dist.all_reduce(tensor)
            keep(tensor)

    for act in (reduce_late, reduce_at_once):
        thread = threading.Thread(target=act)
        thread.start()
        thread.join()


def blocked():
    """A reduction must end though one of its members is inside something else meanwhile."""
    tensor, message = mine(200_000, torch.float32), torch.zeros(3)
    if rank == 0:
        work = dist.all_reduce(tensor, async_op=True)
        dist.recv(message, src=1)
        work.wait()
    else:
        dist.all_reduce(tensor)
        if rank == 1:
            dist.send(torch.ones(3), dst=0)
    keep(tensor)
    forgotten = mine(1000, torch.float32)
    dist.all_reduce(forgotten, async_op=True)
    dist.barrier()
    store = dist.distributed_c10d._get_default_store()
    if rank == 0:
        store.set("done", "yes")
    store.wait(["done"])
    dist.barrier()


dist.init_process_group("gloo", timeout=timedelta(seconds=60))
for part in [globals()[name] for name in sys.argv[1].split(",")]:
    part()
    print(part.__name__, seen.hexdigest()[:16], flush=True)
dist.barrier()
dist.destroy_process_group()

"""An ordinary program: every kind of collective, a digest per round on standard output. Knows nothing of any shim."""

import gc
import hashlib
import os
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

ROUNDS = int(sys.argv[1])
PORTS = os.environ["MASTER_PORTS"].split(",")
torch.set_num_threads(1)
torch.manual_seed(7)


def digest(*values):
    seen = hashlib.sha256()
    for value in values:
        seen.update(value.detach().contiguous().numpy().tobytes() if torch.is_tensor(value) else repr(value).encode())
    return seen.hexdigest()[:16]


def mine(n, round_):
    return torch.sin(torch.arange(n, dtype=torch.float32) * (rank + 1) + round_)


def collectives(round_):
    out = [mine(12, round_) for _ in range(4)]
    dist.all_reduce(out[0])
    dist.broadcast(out[1], src=round_ % size)
    dist.reduce(out[2], dst=1)
    out[2] = out[2] if rank == 1 else torch.zeros(1)
    parts = [torch.empty(12) for _ in range(size)]
    dist.all_gather(parts, mine(12, round_))
    whole = torch.empty(12 * size)
    dist.all_gather_into_tensor(whole, mine(12, round_))
    shard, shard2 = torch.empty(4), torch.empty(4)
    dist.reduce_scatter(shard, list(mine(4 * size, round_).chunk(size)))
    dist.reduce_scatter_tensor(shard2, mine(4 * size, round_))
    turned, turned_one = [torch.empty(4) for _ in range(size)], torch.empty(4 * size)
    dist.all_to_all(turned, list(mine(4 * size, round_).chunk(size)))
    dist.all_to_all_single(turned_one, mine(4 * size, round_))
    gathered = [torch.empty(3) for _ in range(size)] if rank == 0 else None
    dist.gather(mine(3, round_), gathered, dst=0)
    scattered = torch.empty(3)
    dist.scatter(scattered, list(mine(3 * size, round_).chunk(size)) if rank == 2 else None, src=2)
    dist.barrier()
    dist.monitored_barrier(timeout=timedelta(seconds=60))
    with dist._coalescing_manager():
        dist.all_reduce(out[3])
        extra = mine(5, round_)
        dist.all_reduce(extra)
    return digest(*out, *parts, whole, shard, shard2, *turned, turned_one, *(gathered or ()), scattered, extra)


def subgroups(round_):
    out = []
    for group in pairs:
        if group not in (None, dist.GroupMember.NON_GROUP_MEMBER):
            tensor = mine(7, round_)
            dist.all_reduce(tensor, group=group)
            out.append(tensor)
    tensor = mine(6, round_)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=mesh.get_group("inner"))
    fresh = dist.new_group([0, 1, 2])
    dist.all_reduce(tensor, group=fresh)
    dist.destroy_process_group(fresh)
    return digest(tensor, *out)


def messages(round_):
    right, left = (rank + 1) % size, (rank - 1) % size
    got, got2, got3 = torch.empty(9), torch.empty(9), torch.empty(9)
    receiving = dist.irecv(got, src=left, tag=5)
    if rank == 0:
        time.sleep(0.002)
    sending = dist.isend(mine(9, round_), dst=right, tag=5)
    if rank == 0:
        dist.send(mine(9, round_), dst=right)
        dist.recv(got2, src=left)
    else:
        dist.recv(got2, src=left)
        dist.send(got2 + rank, dst=right)
    sending.wait()
    receiving.wait()
    batch = [dist.P2POp(dist.isend, mine(9, round_) * 2, right), dist.P2POp(dist.irecv, got3, left)]
    for work in dist.batch_isend_irecv(batch):
        work.wait()
    total = torch.zeros(2)
    if rank == 0:
        for _ in range(size - 1):
            one = torch.empty(2)
            source = dist.recv(one)
            total += one * source
    else:
        dist.send(torch.full((2,), float(rank)), dst=0)
    return digest(got, got2, got3, total)


def objects(round_):
    out = [None] * size
    dist.all_gather_object(out, {"rank": rank, "round": round_})
    box = [("from", round_)] if rank == 1 else [None]
    dist.broadcast_object_list(box, src=1)
    gathered = [None] * size if rank == 0 else None
    dist.gather_object([rank] * 2, gathered, dst=0)
    share = [None]
    dist.scatter_object_list(share, [f"to {r}" for r in range(size)] if rank == 0 else None, src=0)
    return digest(out, box, gathered, share)


def handles(round_):
    tensors = [mine(50, round_ + i) for i in range(6)]
    works = [dist.all_reduce(tensor, async_op=True) for tensor in tensors]
    futures = [work.get_future() for work in works[:3]]
    doubled = futures[0].then(lambda done: done.value()[0] * 2)
    time.sleep(0.001)
    for work in works[3:]:
        work.wait()
    for future in futures:
        future.wait()
    assert all(work.is_completed() for work in works[3:])
    kept.append(works[0])
    dist.all_reduce(unwaited[round_], async_op=True)
    return digest(*tensors, doubled.wait(), works[1].get_future().wait()[0])


def functional(round_):
    world = dist.group.WORLD
    out = [
        funcol.all_reduce(mine(8, round_), "sum", world),
        funcol.all_gather_tensor(mine(8, round_), 0, world),
        funcol.reduce_scatter_tensor(mine(4 * size, round_), "sum", 0, world),
        funcol.all_to_all_single(mine(4 * size, round_), None, None, world),
        funcol.broadcast(mine(8, round_), 1, world),
        *funcol.all_reduce_coalesced([mine(3, round_), mine(4, round_)], "sum", world),
        *funcol.all_gather_into_tensor_coalesced([mine(3, round_), mine(4, round_)], world),
    ]
    return digest(*[funcol.wait_tensor(tensor) for tensor in out])


def through_store(round_):
    store.set(f"from{rank}.{round_}", str(round_ * rank))
    seen = [store.get(f"from{r}.{round_}").decode() for r in range(size)]
    ticket = store.add(f"ticket.{round_}", 1)
    if ticket == size:
        store.set(f"last.{round_}", "yes")
    store.wait([f"last.{round_}"])
    return digest(seen)


def train(round_, model, optimizer):
    inputs = mine(16, round_).reshape(4, 4)
    for _ in range(2):
        optimizer.zero_grad()
        loss = model(inputs).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    # Sharded parameters are gathered to be looked at.
    return digest(*[p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()])


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 3))


def prepare(port):
    global rank, size, store, mesh, pairs, models
    os.environ["MASTER_PORT"] = port
    dist.init_process_group("gloo", timeout=timedelta(seconds=120))
    rank, size = dist.get_rank(), dist.get_world_size()
    assert dist.get_backend() == "gloo"
    store = dist.distributed_c10d._get_default_store()
    pairs = [dist.new_group([0, 1]), dist.new_group([2, 1]), dist.new_group([0, 2], timeout=timedelta(seconds=50))]
    pairs.append(dist.new_group([0, 1], use_local_synchronization=True) if rank < 2 else None)
    mesh = init_device_mesh("cpu", (1, size), mesh_dim_names=("outer", "inner"))
    replicated = DistributedDataParallel(network(), bucket_cap_mb=0.001)
    sharded = network()
    for layer in sharded:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh["inner"])
    fully_shard(sharded, mesh=mesh["inner"])
    models = [(m, torch.optim.AdamW(m.parameters(), lr=0.01)) for m in (replicated, sharded)]


kept = []
unwaited = [torch.ones(3) for _ in range(ROUNDS)]
prepare(PORTS[0])
for round_ in range(ROUNDS):
    if round_ == ROUNDS // 2:
        # The old store goes with its last user: its keys must not meet the new world's.
        dist.destroy_process_group()
        models, pairs, mesh, store = [], [], None, None
        kept.clear()
        gc.collect()
        prepare(PORTS[1])
    parts = [collectives, subgroups, messages, objects, handles, functional, through_store]
    print(round_, *[part(round_) for part in parts], *[train(round_, *model) for model in models], flush=True)
dist.barrier()
print("unwaited", digest(*unwaited), "kept", len(kept), flush=True)
dist.destroy_process_group()

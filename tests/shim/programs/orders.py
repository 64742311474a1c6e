"""Orders of collectives, messages and store calls that plain Gloo ends at once. Says which one is over."""

import os
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist

torch.set_num_threads(1)
rank = int(os.environ["RANK"])


def reduction_in_a_backward_hook():
    """Launched asynchronously inside a backward pass, on one rank before a message, on the other after it."""
    for _ in range(10):
        works = []
        weight = torch.ones(4, requires_grad=True)
        weight.register_hook(lambda grad, works=works: works.append(dist.all_reduce(grad.clone(), async_op=True)))
        message = torch.zeros(1)
        if rank == 0:
            (weight * 2).sum().backward()
            dist.send(message, 1)
        else:
            dist.recv(message, 0)
            (weight * 2).sum().backward()
        works[0].wait()


def many_under_way():
    """One for each parameter of a large model, waited for when all are launched."""
    tensors = [torch.ones(100) for _ in range(2200)]
    for work in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
        work.wait()
    print(sum(float(tensor.sum()) for tensor in tensors))


def many_before_a_message():
    message = torch.zeros(1)
    if rank == 0:
        works = [dist.all_reduce(torch.ones(3), async_op=True) for _ in range(1000)]
        dist.send(message, 1)
    else:
        dist.recv(message, 0)
        works = [dist.all_reduce(torch.ones(3), async_op=True) for _ in range(1000)]
    for work in works:
        work.wait()


def waits_in_the_store():
    """Ranks that wait for each other where nobody sees it."""
    store = dist.distributed_c10d._get_default_store()
    for step in range(16):
        dist.all_reduce(torch.ones(3))
        store.set(f"k{step}.{rank}", "1")
        store.wait([f"k{step}.{1 - rank}"])


def a_peer_that_never_comes():
    group = dist.new_group([0, 1], timeout=timedelta(seconds=3))  # the world's limit counts for its beginning, too
    if rank == 1:
        time.sleep(15)
        os._exit(0)
    began_s = time.monotonic()
    try:
        dist.all_reduce(torch.ones(3), group=group)
    except RuntimeError as error:
        print("Timed out" in str(error), 3 <= time.monotonic() - began_s < 12, flush=True)
    os._exit(0)


chosen = sys.argv[1].split(",")
dist.init_process_group("gloo", timeout=timedelta(seconds=60))
for order in chosen:
    globals()[order]()
    print(order, flush=True)
    dist.barrier()
dist.destroy_process_group()

"""Handwritten digits with DistributedDataParallel, on the CPU.

    torchrun --nproc-per-node 4 digits_ddp.py

Writes digits.pt into the current directory; the last line is the digest of the trained parameters.
"""

import argparse
import hashlib
import itertools
import sys

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

TRAIN = 1437  # of 1797 images; the rest is for testing, as in scikit-learn's own digits example
SHARD_EVERY = 10  # steps between the lines of the other ranks


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.1),
            nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.head = nn.Sequential(
            nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 2 * 2, 128), nn.ReLU(), nn.Linear(128, 10)
        )

    def forward(self, x):
        return self.head(self.features(x))


def load():
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    return TensorDataset(images[:TRAIN], labels[:TRAIN]), TensorDataset(images[TRAIN:], labels[TRAIN:])


def jitter(x):
    """Shift by up to one pixel and add a little noise; every rank draws its own."""
    dx, dy = torch.randint(-1, 2, (2,)).tolist()
    return torch.roll(x, (dx, dy), dims=(2, 3)) + 0.05 * torch.randn_like(x)


def batches(loader, sampler):
    for epoch in itertools.count():
        sampler.set_epoch(epoch)
        for x, y in loader:
            yield epoch, x, y


def accuracy(model, test, rank, world):
    """Every rank tests its share; the counts are summed."""
    x, y = test[rank::world]
    model.eval()
    with torch.no_grad():
        hits = (model(x).argmax(1) == y).sum()
    model.train()
    counts = torch.stack([hits, torch.tensor(len(y))])
    dist.all_reduce(counts)
    return counts[0].item() / counts[1].item()


def digest(model):
    sha = hashlib.sha256()
    for name, p in model.named_parameters():
        sha.update(name.encode())
        sha.update(p.detach().numpy().tobytes())
    return sha.hexdigest()


def say(line):
    sys.stdout.write(line + "\n")  # one write, so that lines of several ranks do not mix
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=64, help="images per rank and step")
    parser.add_argument("--lr", type=float, default=2e-3)
    args = parser.parse_args()

    torch.set_num_threads(1)  # as torchrun would: the ranks share the cores
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    train, test = load()

    torch.manual_seed(42)
    model = DistributedDataParallel(Net())
    torch.manual_seed(1000 + rank)  # dropout and jitter differ from rank to rank

    sampler = DistributedSampler(train, world, rank, shuffle=True, seed=7)
    loader = DataLoader(train, batch_size=args.batch, sampler=sampler)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)

    for step, (epoch, x, y) in enumerate(itertools.islice(batches(loader, sampler), args.steps), 1):
        optimizer.zero_grad()
        loss = loss_of(model(jitter(x)), y)
        loss.backward()
        optimizer.step()
        schedule.step()
        if rank == 0:
            say(f"step {step} epoch {epoch} loss {loss.item()!r}")
        elif step % SHARD_EVERY == 0:
            say(f"rank {rank} step {step} loss {loss.item()!r}")
        if step % 100 == 0 or step == args.steps:
            acc = accuracy(model.module, test, rank, world)
            if rank == 0:
                say(f"step {step} test accuracy {acc:.4f}")

    if rank == 0:
        torch.save(model.module.state_dict(), "digits.pt")
        say(f"digest {digest(model.module)}")
    else:
        say(f"rank {rank} digest {digest(model.module)}")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

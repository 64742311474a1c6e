"""Training programs as people write them, one after another in one process, each made from a seed. Knows of no shim.

trainings.py FIRST:COUNT[,FIRST:COUNT...]: COUNT programs from FIRST on, and so on. For each a line with a digest of all
losses, weights, optimizer state and random numbers. A number tells everything about a program: it can be run again on
its own. What was added later comes in from MORE on, so that smaller numbers stay the programs they were."""

import copy
import faulthandler
import hashlib
import os
import random
import sys
import time
from contextlib import nullcontext
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

torch.set_num_threads(1)
rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
STEPS = (8, 22)
MORE = 2000
HUNG_S = 150  # of one program, beyond which it says where its threads are


class Momentum(torch.optim.Optimizer):
    """A user's own optimizer, with a Python number and a tensor of state."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr})
        self.calls = 0

    @torch.no_grad()
    def step(self, closure=None):
        self.calls += 1
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["count"], state["mean"] = 0, torch.zeros_like(p)
                state["count"] += 1
                state["mean"].mul_(0.9).add_(p.grad)
                p.add_(state["mean"], alpha=-group["lr"] / (state["count"] + self.calls))


class Noisy(torch.optim.SGD):
    """One that must not be shared: it draws random numbers."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad.add_(torch.randn_like(p.grad) * 1e-3)
        return super().step(closure)


class Chatty(torch.optim.SGD):
    """Another one: it speaks to the other ranks."""

    @torch.no_grad()
    def step(self, closure=None):
        held = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.stack([p.grad.norm() for p in held])
        dist.all_reduce(norm)
        return super().step(closure)


class Fresh(torch.optim.Optimizer):
    """One that makes its state anew at every step."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    state = self.state[p]
                    state["mean"] = state.get("mean", torch.zeros_like(p)) * 0.9 + p.grad
                    p.sub_(state["mean"] * group["lr"])


class Assign(torch.optim.Optimizer):
    """One that puts new memory in place of its parameters."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.data = p.data - group["lr"] * p.grad


class Scaling(torch.optim.SGD):
    """One that changes gradients, forgets some, and tells what it saw."""

    @torch.no_grad()
    def step(self, closure=None):
        held = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        for p in held:
            p.grad.mul_(0.5)
        super().step(closure)
        total = sum(float(p.grad.norm()) for p in held)
        for p in held[1:]:
            p.grad = None
        return total


OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, foreach=False),
    "adamw foreach": lambda p: torch.optim.AdamW(p, lr=1e-2, foreach=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "adam amsgrad": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "sgd tensor": lambda p: torch.optim.SGD(p, lr=torch.tensor(0.05), momentum=0.9, nesterov=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.01),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=2, history_size=3),
    "own": lambda p: Momentum(p, lr=0.05),
    "noisy": lambda p: Noisy(p, lr=0.05),
    "chatty": lambda p: Chatty(p, lr=0.05),
    "fresh": lambda p: Fresh(p, lr=0.05),
}
MORE_OPTIMIZERS = {
    **OPTIMIZERS,
    "assign": lambda p: Assign(p, lr=0.05),
    "scaling": lambda p: Scaling(p, lr=0.05),
    "nesterov foreach": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, foreach=True),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.01),
}
USUAL = ["adamw", "adamw foreach", "adamw fused", "sgd"]  # more often than the others
ODDITIES = (
    "none none none none ema ema clamp_all weights_rank0 weights_rank2 data_mul_all load_state load_optimizer "
    "grad_rank1 grad_flip add_group buffers_off branch numpy_view late_group store two_optimizers sometimes "
    "params_rank closure rank_steps grad_data swap_param second_model uneven pause eval_mode_ddp fork"
).split()
MORE_ODDITIES = [*ODDITIES, *"assign_all assign_rank1 messages share_memory".split()]
HOOKS = (None, None, None, None, None, "fp16", "power")


def network(dice, width):
    kind = dice.choice(["mlp", "mlp", "conv", "norm", "attention", "tied"])
    if kind == "conv":
        layers = [nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten()]
        return nn.Sequential(*layers, nn.Linear(96, 5))
    if kind == "attention":
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=dice.choice([0.0, 0.1]), batch_first=True)
        return nn.Sequential(nn.Unflatten(1, (2, 8)), layer, nn.Flatten(), nn.Linear(16, 5))
    if kind == "tied":
        first = nn.Linear(16, 16)
        return nn.Sequential(first, nn.Tanh(), first, nn.Linear(16, 5))
    norm = [nn.BatchNorm1d(width)] if kind == "norm" else []
    layers = [nn.Linear(16, width), *norm, nn.Tanh(), nn.Dropout(dice.choice([0.0, 0.2]))]
    for _ in range(dice.randint(0, 2)):
        layers += [nn.Linear(width, width), nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(width, 5))


class Program:
    """One training program."""

    def __init__(self, number):
        self.dice = dice = random.Random(number)
        self.number = number
        self.seen = hashlib.sha256()
        torch.manual_seed(number)
        self.width = dice.choice([8, 24, 24, 200, 400])
        self.model = network(dice, self.width)
        frozen = dice.random() < 0.15
        if frozen:
            list(self.model.parameters())[0].requires_grad_(False)
        optimizers = OPTIMIZERS if number < MORE else MORE_OPTIMIZERS
        self.oddity = dice.choice(ODDITIES if number < MORE else MORE_ODDITIES)
        name = dice.choice([*optimizers, *USUAL * 3])
        if self.oddity == "share_memory":
            self.model.share_memory()
        self.closure = name == "lbfgs" or self.oddity == "closure"
        terms = {"bucket_cap_mb": dice.choice([25, 0.01, 0.001]), "gradient_as_bucket_view": dice.random() < 0.4}
        terms["broadcast_buffers"] = self.oddity != "buffers_off" and dice.random() < 0.7
        terms["find_unused_parameters"] = dice.random() < 0.15
        terms["static_graph"] = not terms["find_unused_parameters"] and dice.random() < 0.1
        self.accumulate = dice.choice([1, 1, 1, 2, 3])
        if terms["static_graph"] or self.oddity == "uneven":
            self.accumulate = 1
        self.wrapped = DistributedDataParallel(self.model, **terms) if dice.random() < 0.85 else None
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.spare = nn.Parameter(torch.ones(7))
        self.optimizer = optimizers[name](trained)
        self.others = []
        if self.oddity in ("two_optimizers", "second_model"):
            self.head = nn.Linear(5, 3)
            self.others.append(OPTIMIZERS[dice.choice(USUAL)](self.head.parameters()))
        self.scheduler = dice.choice([None, "step", "one", "lambda"])
        self.schedule = None if name == "sgd tensor" or self.oddity == "add_group" else self._schedule()
        self.clip = dice.choice([None, None, 1.0, 0.05])
        self.scaler = None
        if not self.closure and self.oddity not in ("sometimes", "rank_steps") and dice.random() < 0.15:
            self.scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
        self.ema = copy.deepcopy(self.model) if self.oddity == "ema" else None
        self.steps = dice.randint(*STEPS)
        self.groups = []
        if dice.random() < 0.3 and size > 2:
            self.groups = [dist.new_group([r for r in range(size) if r % 2 == side]) for side in (0, 1)]
        hook = dice.choice(HOOKS) if number >= MORE and self.wrapped is not None and not terms["static_graph"] else None
        # Plain Gloo does not end several buckets of PowerSGD either: its callbacks launch sums of their own.
        fits = hook != "power" or terms["bucket_cap_mb"] == 25
        if hook is not None and fits and self.oddity != "uneven" and self.accumulate == 1:
            self._register(hook)
        self.name = f"{name}/{self.oddity}/{terms['gradient_as_bucket_view']:d}{self.accumulate}{hook or ''}"

    def _register(self, hook):
        if hook == "power":
            state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=1, start_powerSGD_iter=2)
            self.wrapped.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
        else:
            self.wrapped.register_comm_hook(None, default_hooks.fp16_compress_hook)

    def _schedule(self):
        if self.scheduler == "step":
            return torch.optim.lr_scheduler.StepLR(self.optimizer, 3, 0.7)
        if self.scheduler == "lambda":
            return torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1 / (1 + 0.1 * step))
        if self.scheduler == "one":
            return torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 10)
        return None

    def run(self):
        uneven = self.oddity == "uneven" and self.wrapped is not None and not self.groups
        steps = self.steps + (rank if uneven else 0)
        with self.wrapped.join() if uneven else nullcontext():
            for step in range(steps):
                self.step(step)
                if not uneven:
                    self.between(step)
        self.keep(*self.model.state_dict().values())
        for state in self.optimizer.state.values():
            self.keep(*[value for _, value in sorted(state.items(), key=lambda item: str(item[0]))])
        for other in [self.ema] if self.ema is not None else []:
            self.keep(*other.state_dict().values())
        self.keep(torch.get_rng_state(), repr([g["lr"] for g in self.optimizer.param_groups]))
        return self.seen.hexdigest()[:16]

    def keep(self, *values):
        for value in values:
            if torch.is_tensor(value):
                value = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            self.seen.update(value if isinstance(value, bytes) else repr(value).encode())

    def step(self, step):
        if self.oddity == "branch" and rank == 1 and step % 3 == 0:
            torch.randn(5)
        losses = []

        def backward():
            self.optimizer.zero_grad(set_to_none=step % 2 == 0)
            for part in range(self.accumulate):
                last = part == self.accumulate - 1
                held = self.wrapped.no_sync() if self.wrapped is not None and not last else nullcontext()
                with held:
                    losses.append(self.loss(step, part))
                    scaled = losses[-1] if self.scaler is None else self.scaler.scale(losses[-1])
                    scaled.backward()
            if self.wrapped is None:
                self.average()
            return losses[-1]

        if self.closure:
            self.optimizer.step(backward)
        else:
            backward()
            self.finish(step)
        if self.schedule is not None:
            self.schedule.step()
        self.keep(*[loss.item().hex() for loss in losses])

    def loss(self, step, part):
        generator = torch.Generator().manual_seed(self.number * 1000 + step * 50 + part * 10 + rank)
        count = 6 if step % 4 else 3 + rank  # the last batch of an epoch
        inputs = torch.randn(count, 16, generator=generator)
        targets = torch.randint(0, 5, (count,), generator=generator)
        out = (self.wrapped or self.model)(inputs)
        if self.others:
            # Its gradients are averaged by hand, between the two steps.
            hidden = self.head(out.detach()).square().mean()
            hidden.backward()
            for p in self.head.parameters():
                dist.all_reduce(p.grad)
                p.grad /= size
        return nn.functional.cross_entropy(out, targets)

    def average(self):
        for p in self.model.parameters():
            if p.grad is not None:
                dist.all_reduce(p.grad)
                p.grad /= size

    def finish(self, step):
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if self.clip is not None:
            self.keep(nn.utils.clip_grad_norm_(self.model.parameters(), self.clip))
        first = next(p for p in self.model.parameters() if p.grad is not None)
        if self.oddity == "grad_rank1" and rank == 1 and step == 9:
            first.grad.mul_(1.5)
        if self.oddity == "grad_data" and rank == 2 and step == 7:
            first.grad.data.add_(0.25)
        if self.oddity == "grad_flip" and rank == 3 % size and step == 8:
            first.grad.copy_(first.grad.flip(0))
        if self.oddity == "rank_steps" and rank == 1 and step == 10:
            return  # this rank does without that step
        if self.oddity == "sometimes" and step % 5 == 4:
            return
        if self.scaler is not None:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.keep(self.optimizer.step())
        for other in self.others:
            other.step()
            other.zero_grad()

    @torch.no_grad()
    def between(self, step):
        weights = [p for p in self.model.parameters() if p.requires_grad]
        getattr(self, "on_" + self.oddity, lambda *_: None)(step, weights)
        if self.groups:
            tensor = torch.full((5,), float(rank + step))
            dist.all_reduce(tensor, group=self.groups[rank % 2])
            self.keep(tensor)
        if step % 6 == 5:
            metric = weights[0].sum().reshape(1).clone()
            dist.all_reduce(metric, op=dist.ReduceOp.AVG)
            self.keep(metric)
            dist.barrier()

    def on_ema(self, step, weights):
        for mine, theirs in zip(self.ema.parameters(), self.model.parameters()):
            mine.lerp_(theirs, 0.1)

    def on_clamp_all(self, step, weights):
        if step % 4 == 2:
            weights[0].clamp_(-0.05, 0.05)

    def on_data_mul_all(self, step, weights):
        if step == 6:
            weights[-1].data.mul_(0.99)

    def on_weights_rank0(self, step, weights):
        if rank == 0 and step == 6:
            weights[0].add_(0.01)

    def on_weights_rank2(self, step, weights):
        if rank == 2 % size and step == 6:
            weights[0].mul_(1.01)

    def on_load_state(self, step, weights):
        if step == 3:
            self.saved = copy.deepcopy(self.model.state_dict())
        if step == 9:
            self.model.load_state_dict(self.saved)

    def on_load_optimizer(self, step, weights):
        if step == 4:
            self.saved = copy.deepcopy(self.optimizer.state_dict())
        if step == 7:
            self.optimizer.load_state_dict(self.saved)

    def on_add_group(self, step, weights):
        if step == 5:
            self.optimizer.add_param_group({"params": [self.spare]})
        if step >= 5:
            self.spare.grad = torch.full((7,), 0.1 * step)

    def on_numpy_view(self, step, weights):
        if step == 1:
            self.view = weights[0].detach().numpy()
        if step == 8:
            self.view[0] += 0.01 * rank
        if step > 1:
            self.keep(float(self.view.sum()).hex())

    def on_late_group(self, step, weights):
        if step == 5:
            group = dist.new_group([0, 1])
            if rank < 2:
                tensor = torch.ones(3) * rank
                dist.all_reduce(tensor, group=group)
                self.keep(tensor)

    def on_store(self, step, weights):
        store = dist.distributed_c10d._get_default_store()
        if step == 5:
            if rank == 0:
                store.set(f"program{self.number}", "word")
            self.keep(store.get(f"program{self.number}"))

    def on_fork(self, step, weights):
        if step == 7:
            self.reading, writing = os.pipe()
            self.child = os.fork()
            if self.child == 0:
                time.sleep(0.1)
                os.write(writing, repr([float(p.sum()).hex() for p in weights]).encode())
                os._exit(0)
            os.close(writing)
        if step == 7 + 3 * (self.steps > 10):
            self.keep(os.read(self.reading, 100_000))
            os.waitpid(self.child, 0)

    def on_params_rank(self, step, weights):
        if step == 0:
            weights[-1].add_(0.001 * rank)

    def on_swap_param(self, step, weights):
        if step == 8:
            weights[0].data = weights[0].data.clone()

    def on_assign_all(self, step, weights):
        if step % 5 == 3:
            weights[0].data = weights[0].data * 0.99

    def on_assign_rank1(self, step, weights):
        if rank == 1 and step == 7:
            weights[-1].data = weights[-1].data + 0.01

    def on_messages(self, step, weights):
        """Neighbours hand something on, as stages of a pipeline do, beside the replicas' reductions."""
        total = torch.full((3,), float(step))
        if rank > 0:
            dist.recv(total, rank - 1)
        total += weights[0].sum() * (rank + 1)
        if rank < size - 1:
            dist.send(total, rank + 1)
        self.keep(total)

    def on_pause(self, step, weights):
        time.sleep(0.01 if rank == step % size else 0)

    def on_eval_mode_ddp(self, step, weights):
        self.model.eval()
        self.keep(self.model(torch.ones(2, 16)))
        self.model.train()


def main():
    faulthandler.enable()
    dist.init_process_group("gloo", timeout=timedelta(seconds=120))
    spans = [[int(word) for word in span.split(":")] for span in sys.argv[1].split(",")]
    for number in [number for first, count in spans for number in range(first, first + count)]:
        # Well beyond the longest one: walking the frames of threads that run may end the process.
        faulthandler.dump_traceback_later(HUNG_S, exit=False)
        began_s = time.monotonic()
        program = Program(number)
        print(number, program.name, file=sys.stderr, flush=True)
        try:
            said = program.run()
        except (RuntimeError, ValueError, AttributeError) as error:  # a program that is wrong is so on all ranks
            said = f"{type(error).__name__} {str(error)[:60]}"
        print(number, said, flush=True)
        took = time.monotonic() - began_s
        print(number, f"{took:.2f} s", file=sys.stderr, flush=True)
    dist.barrier()
    dist.destroy_process_group()


main()

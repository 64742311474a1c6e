"""Optimizers that do more in a step than compute, or other things in some ranks. Knows of no shim.

steps.py CASES: one line for each with a digest of weights, random numbers and what else the program sees of a step.
From step LATE on ranks differ where they ever do: by then an optimizer has been stepping for a while."""

import collections
import copy
import hashlib
import os
import sys
import threading
import time
from datetime import timedelta

import numpy
import torch
import torch.distributed as dist
from torch import nn

torch.set_num_threads(1)
rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
STEPS, LATE, WIDE = 12, 8, 4 * 16382
COUNTS = collections.Counter()
NUMBER = 0
SCALE = 1.0
TENSOR_SCALE = torch.ones(1)
SGD = torch.optim.SGD


class Base(torch.optim.Optimizer):
    def __init__(self, parameters, lr, extra=None):
        super().__init__(parameters, {"lr": lr})
        self.count = 0
        if extra is not None:
            self.extra = extra

    @torch.no_grad()
    def step(self, closure=None):
        self.count += 1
        factor = self.factor()
        for group in self.param_groups:
            for p in group["params"]:
                self.move(p, -group["lr"] * factor)

    def move(self, p, by):
        p.add_(p.grad, alpha=by)

    def factor(self):
        return 1.0


class Assign(Base):
    def move(self, p, by):
        p.data = p.data + by * p.grad


class GlobalNumber(Base):
    def factor(self):
        return SCALE


class GlobalTensor(Base):
    def move(self, p, by):
        p.add_(p.grad * TENSOR_SCALE * by)


class GetRank(Base):
    def factor(self):
        return 1 + (0.1 * dist.get_rank() if self.count > LATE else 0)


class Called(Base):
    def factor(self):
        return self.extra()


class Model(Base):
    def factor(self):
        return 1.0 if self.extra.training else 0.5


class MainGrad(Base):
    def move(self, p, by):
        p.add_(p.main_grad, alpha=by)


class Default(Base):
    def factor(self, seen=[0.0]):  # noqa: B006
        return 1 + seen[0] * rank


class Barrier(Base):
    def factor(self):
        if self.count == LATE + 1:
            dist.barrier()
        return 1.0


class Counting(SGD):
    def step(self, closure=None):
        COUNTS["steps"] += 1
        return super().step(closure)


class Loud(SGD):
    def step(self, closure=None):
        global NUMBER
        NUMBER += 1
        return super().step(closure)


class Quiet(Loud):
    def step(self, closure=None):
        return super().step(closure)


class InitGroup(SGD):
    def _init_group(self, group, *rest):
        global NUMBER
        NUMBER += 1
        return super()._init_group(group, *rest)


class ClassCount(SGD):
    total = 0

    def step(self, closure=None):
        ClassCount.total += 1
        return super().step(closure)


class GradNone(SGD):
    def step(self, closure=None):
        result = super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None
        return result


class GradAdd(SGD):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad.add_(p, alpha=0.1)
        return super().step(closure)


class GradData(SGD):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad.data.mul_(0.5)
        return super().step(closure)


class Returns(SGD):
    @torch.no_grad()
    def step(self, closure=None):
        super().step()
        total = 0.0
        for group in self.param_groups:
            for p in group["params"]:
                total = total + float(p.grad.norm())
        return {"norm": total, "finite": total < 1e9}


class ReturnsTensor(SGD):
    @torch.no_grad()
    def step(self, closure=None):
        super().step()
        return self.param_groups[0]["params"][0].grad.norm()


class Raises(Base):
    def move(self, p, by):
        if self.count == LATE and p.ndim == 1:
            raise ValueError(f"at step {self.count}")
        p.add_(p.grad, alpha=by)


class Twice(SGD):
    def step(self, closure=None):
        with torch.enable_grad():
            loss = closure()
        super().step()
        with torch.enable_grad():
            closure()
        super().step()
        return loss


class Doubled(SGD):
    def step(self, closure=None):
        super().step(closure)
        return super().step(closure)


class LateNoise(SGD):
    def __init__(self, parameters, lr):
        super().__init__(parameters, lr=lr)
        self.count = 0

    @torch.no_grad()
    def step(self, closure=None):
        self.count += 1
        if self.count == LATE:
            for group in self.param_groups:
                for p in group["params"]:
                    nn.init.trunc_normal_(p, std=0.1)
        return super().step(closure)


class Reshaped(Base):
    """Its state takes another shape, is made anew, and goes, each at a step of its own."""

    def move(self, p, by):
        state = self.state[p]
        if not state:
            state["mean"], state["gone"] = torch.zeros_like(p), torch.ones(3)
        if self.count == LATE:
            state["mean"] = state["mean"].reshape(-1).clone()
        if self.count == LATE + 1:
            state["mean"].data = torch.zeros(3)
        if self.count == LATE + 2:
            state["mean"], state["word"] = torch.zeros_like(p), ["late", self.count]
            del state["gone"]
        if state["mean"].shape == p.shape:
            state["mean"].mul_(0.9).add_(p.grad)
            p.add_(state["mean"], alpha=by)


OWN = {
    **{"assign": Assign, "number": GlobalNumber, "tensor": GlobalTensor, "get_rank": GetRank, "main_grad": MainGrad},
    **{"default": Default, "barrier": Barrier, "counting": Counting, "loud": Loud, "quiet": Quiet, "raises": Raises},
    **{"init_group": InitGroup, "class_count": ClassCount, "grad_none": GradNone, "grad_add": GradAdd},
    **{"grad_data": GradData, "returns": Returns, "returns_tensor": ReturnsTensor, "twice": Twice},
    **{"late_noise": LateNoise, "reshaped": Reshaped, "class_differs": SGD if rank == 0 else Doubled},
}
TORCHS = {
    **{name: getattr(torch.optim, name) for name in ("Adamax", "Rprop", "Adadelta", "RAdam", "Adafactor")},
    "ASGD": lambda p, lr: torch.optim.ASGD(p, lr, t0=3),
    "Muon": lambda p, lr: torch.optim.Muon([each for each in p if each.ndim == 2], lr),
    "nesterov": lambda p, lr: SGD(p, lr, momentum=0.9, nesterov=True, foreach=True),
    "fused_scaler": lambda p, lr: torch.optim.Adam(p, lr, fused=True),
    "add_group": torch.optim.Adam,
    "load_state": torch.optim.Adam,
}


class Program:
    def __init__(self, case):
        self.case = case
        self.logs = []
        self.step_count = 0
        torch.manual_seed(3)
        kind = torch.float64 if case == "negated" else torch.float32
        self.model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 4)).to(kind)
        self.parameters = list(self.model.parameters())
        self.spare = nn.Parameter(torch.ones(7))
        self.is_wide = case in ("negated", "rolled")
        if self.is_wide:
            self.parameters = [nn.Parameter(torch.randn(WIDE, dtype=kind))]
        if case == "from_numpy":
            self.array = numpy.ones((4, 32), dtype="float32")
            self.model[2].weight = nn.Parameter(torch.from_numpy(self.array))
            self.parameters = list(self.model.parameters())
        if case == "shared_memory":
            self.model.share_memory()
            self.child = Child(self.parameters)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=64.0) if case == "fused_scaler" else None
        self.optimizer = self.make()

    def make(self):
        if self.case in OWN:
            return OWN[self.case](self.parameters, 0.0 if self.case == "class_differs" else 0.05)
        if self.case in TORCHS:
            return TORCHS[self.case](self.parameters, 0.05)
        if self.case == "called":
            return Called(self.parameters, 0.05, lambda: 1 + (0.1 * rank if self.step_count > LATE else 0))
        if self.case == "model":
            return Model(self.parameters, 0.05, self.model)
        return SGD(self.parameters, 0.05, momentum=0.9)

    def run(self):
        for step in range(26 if self.case in ("add_group", "load_state") else STEPS):
            self.step_count += 1
            if step == LATE:
                self.differ()
            self.step(step)
            dist.barrier()
        if self.case == "shared_memory":
            self.logs.append(self.child.told())
        if self.case == "from_numpy":
            self.logs.append(self.array.sum())
        counts = [NUMBER, dict(COUNTS), ClassCount.total]
        return digest(*self.parameters, torch.get_rng_state()), counts, digest(repr(self.logs))

    def differ(self):
        global SCALE
        SCALE = 1 + 0.1 * rank
        TENSOR_SCALE.fill_(SCALE)
        if self.case == "default":
            Default.factor.__defaults__[0][0] = 0.1
        if self.case == "model" and rank:
            self.model.eval()
        if self.case == "class_differs":
            self.optimizer.param_groups[0]["lr"] = 0.05
        if self.case == "add_group":
            self.optimizer.add_param_group({"params": [self.spare]})
        if self.case == "load_state":
            self.optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))

    def step(self, step):
        if self.case == "thread_fork" and step == LATE:
            self.forked = []
            thread = threading.Thread(target=lambda: self.forked.append(Child(self.parameters, 0.3)))
            thread.start()
            thread.join()
            self.logs.append(digest(*self.parameters))
        if self.case == "thread_fork" and step == STEPS - 1:
            self.logs.append(self.forked[0].told() == self.logs[-1] or "the child saw other weights")

        def closure():
            if step % 2 == 0 or self.case not in ("grad_none", "grad_add", "grad_data", "nesterov", "fused_scaler"):
                self.optimizer.zero_grad()
            return self.backward(step)

        if self.case == "twice" or (self.case == "late_closure" and step >= LATE):
            answer = self.optimizer.step(closure)
        else:
            closure()
            answer = self.finish()
        self.logs.append(None if answer is None else repr(answer))
        self.logs.extend(None if p.grad is None else float(p.grad.sum()).hex() for p in self.parameters)

    def finish(self):
        try:
            if self.scaler is None:
                return self.optimizer.step()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        except ValueError as error:
            return error
        return None

    def backward(self, step):
        self.spare.grad = torch.full((7,), 0.1)
        generator = torch.Generator().manual_seed(step)
        if self.is_wide:
            gradient = torch.randn(WIDE, dtype=self.parameters[0].dtype, generator=generator)
            if step == LATE and rank:
                gradient = -gradient if self.case == "negated" else gradient.roll(16382)
            self.parameters[0].grad = gradient
            return torch.ones(())
        inputs, targets = torch.randn(8, 16, generator=generator), torch.randint(0, 4, (8,), generator=generator)
        loss = nn.functional.cross_entropy(self.model(inputs), targets)
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()
        for p in self.parameters:
            p.main_grad = p.grad * (1 + (0.1 * rank if step >= LATE else 0))
        return loss


class Child:
    """A forked process that says after a while what the tensors it inherited are."""

    def __init__(self, tensors, wait_s=None):
        self._reading, writing = os.pipe()
        waiting, self._go = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            time.sleep(wait_s) if wait_s is not None else os.read(waiting, 1)
            os.write(writing, digest(*tensors).encode())
            os._exit(0)

    def told(self):
        os.write(self._go, b"x")
        said = os.read(self._reading, 100).decode()
        os.waitpid(self._pid, 0)
        return said


def digest(*values):
    seen = hashlib.sha256()
    for value in values:
        if torch.is_tensor(value):
            value = value.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        seen.update(value if isinstance(value, bytes) else repr(value).encode())
    return seen.hexdigest()[:12]


OTHERS = "called,model,from_numpy,shared_memory,negated,rolled,late_closure,thread_fork"


def main():
    global NUMBER, SCALE
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    cases = sys.argv[1] if len(sys.argv) > 1 else ",".join([OTHERS, *OWN, *TORCHS])
    kept = []
    for case in cases.split(","):
        NUMBER, SCALE = 0, 1.0
        TENSOR_SCALE.fill_(1)
        COUNTS.clear()
        kept[:] = [*kept[-1:], Program(case)]
        try:
            print(case, *kept[-1].run(), flush=True)
        except Exception as error:  # a program that is wrong is so on all ranks
            print(case, type(error).__name__, str(error)[:80], flush=True)
    dist.barrier()


main()

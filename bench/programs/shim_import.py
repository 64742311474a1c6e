"""CPU seconds that the shim at argv[1] takes of a program that imports torch, beside what torch takes."""

import sys
import time

import torch.distributed.distributed_c10d as c10d

sys.modules.pop("sitecustomize", None)
sys.path.insert(0, sys.argv[1])
names = list(sys.modules)
began = time.process_time()
import sitecustomize  # noqa: E402, F401  # arms the hook, as when an interpreter starts
from ergo_shim import hook, patch, steps  # noqa: E402

for name in names:  # what it is asked about each import until torch's own parts come
    hook._finder.find_spec(name.replace("torch", "other"))
patch.install(c10d, hook.control_path())
steps.reroute()
print(time.process_time() - began)

"""Holds so many bytes of incompressible memory, and says the time every few milliseconds."""

import random
import sys
import time

size = int(float(sys.argv[1]) * 2**30)
block = random.Random(1).randbytes(1 << 24)
memory = bytearray(size)
for at in range(0, size, len(block)):
    memory[at : at + len(block)] = block[: size - at]
step = 0
while True:
    memory[(step * 4096) % size] = step & 255
    step += 1
    sys.stdout.write(f"{step} {time.time():.6f}\n")
    sys.stdout.flush()
    time.sleep(0.005)

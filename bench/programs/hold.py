"""Holds so many bytes of memory that neither compresses nor repeats, and says the time every few milliseconds."""

import random
import sys
import time

size = int(float(sys.argv[1]) * 2**30)
dice, block = random.Random(1), 1 << 24
memory = bytearray(size)
for at in range(0, size, block):
    memory[at : at + block] = dice.randbytes(min(block, size - at))
step = 0
while True:
    memory[(step * 4096) % size] = step & 255
    step += 1
    sys.stdout.write(f"{step} {time.time():.6f}\n")
    sys.stdout.flush()
    time.sleep(0.005)

"""A program whose threads sleep in calls that have a timeout, and what it says if nothing interrupts them."""

from typing import Final

NAPS: Final = """
import ctypes, os, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
def say(text):
    os.write(1, text.encode() + b"\\n")
def nap():
    rc = libc.nanosleep((ctypes.c_long * 2)(3, 0), None)
    say(f"nanosleep {rc} {ctypes.get_errno()}")
def poll():
    rc = libc.poll(None, 0, 3000)
    say(f"poll {rc} {ctypes.get_errno() if rc else 0}")
def futex():
    rc = libc.syscall(202, ctypes.byref(ctypes.c_int(0)), 0, 0, (ctypes.c_long * 2)(3, 0), None, 0)
    say(f"futex {rc} {ctypes.get_errno()}")
threads = [threading.Thread(target=one) for one in (nap, poll, futex)]
for one in threads:
    one.start()
say("up")
for one in threads:
    one.join()
say("end")
"""
TIMED_OUT: Final = 110  # ETIMEDOUT: how a futex says that its time is over
SAID: Final = ["", "end", f"futex -1 {TIMED_OUT}", "nanosleep 0 0", "poll 0 0", "up"]  # sorted lines

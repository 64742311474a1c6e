"""What a rank brings to a step, as a digest: ranks whose digests are equal would do the same to equal tensors.

All gradients enter with every bit; so do the values of parameter groups and what else the optimizer keeps."""

from __future__ import annotations

import ctypes
import hashlib
import sys
from typing import Any, Final

from .arena import is_dense
from .fold import flat

SMALL_BYTES: Final = 1 << 16  # up to here bytes are hashed as they are
WORD: Final = 8  # bytes
HALF: Final = 4  # bytes by which the second sums are shifted: a sign that is the top bit of a word there is not here
BLOCK_WORDS: Final = 1 << 17  # summed twice while it is in the core's cache
# Columns of the two sums, in rotation. What is exchanged stays unseen only over a multiple of both: more than the
# whole of a tensor of up to MIDDLE_WORDS, and 537 MB in a larger one.
MIDDLE_WORDS: Final = 1 << 20
WIDTHS: Final = ((1031, 1033), (1039, 1049), (1051, 1061), (1063, 1069))
WIDTHS_LARGE: Final = ((8191, 8209), (8219, 8221), (8231, 8233), (8237, 8243))
PLAIN: Final = (int, float, bool, str, type(None), complex)


class Record:
    """A digest under way."""

    def __init__(self, number: int) -> None:
        self._hash = hashlib.blake2b(digest_size=32)
        self._number = number
        self.is_known = True  # False: there was something that cannot be compared

    def add(self, value: Any) -> None:
        """A value of plain types, or containers of them."""
        self._hash.update(repr(self._told(value)).encode())

    def add_tensor(self, tensor: Any) -> None:
        """A dense tensor in host memory, every bit of it."""
        self._hash.update(repr((tensor.shape, tensor.stride(), tensor.dtype)).encode())
        if not is_dense(tensor):
            tensor = tensor.detach().contiguous()
        size = tensor.numel() * tensor.dtype.itemsize
        if size:
            self._add_bytes(tensor.data_ptr(), size)

    def digest(self) -> bytes:
        """32 bytes."""
        return self._hash.digest()

    def _told(self, value: Any) -> Any:
        if isinstance(value, PLAIN):
            return value
        if isinstance(value, (list, tuple)):
            return [self._told(each) for each in value]
        if isinstance(value, dict):
            return [(self._told(key), self._told(value[key])) for key in value]
        torch = sys.modules["torch"]
        if isinstance(value, torch.Tensor) and value.device.type == "cpu" and value.layout is torch.strided:
            self.add_tensor(value)
            return "a tensor"
        if isinstance(value, (torch.dtype, torch.device)):
            return str(value)
        self.is_known = False
        return "?"

    def _add_bytes(self, address: int, size: int) -> None:
        if size <= SMALL_BYTES:
            self._hash.update(ctypes.string_at(address, size))
            return
        words = size // WORD
        widths = (WIDTHS if words <= MIDDLE_WORDS else WIDTHS_LARGE)[self._number % len(WIDTHS)]
        sums = [_Sums(address, words, widths[0]), _Sums(address + HALF, words - 1, widths[1])]
        waiting = sums
        while waiting:  # side by side, so that each block is read from memory once
            waiting = [each for each in waiting if not each.go_on()]
        for each in sums:
            self._hash.update(each.bytes())
        if size % WORD:
            self._hash.update(ctypes.string_at(address + WORD * words, size % WORD))


class _Sums:
    """Sums of the words of a stretch of memory, at least one row of them, in columns, a block at a time."""

    def __init__(self, address: int, words: int, width: int) -> None:
        self._words = flat(address, sys.modules["torch"].int64, words)
        self._left = words
        self._width = width
        self._sums: Any = None

    def go_on(self) -> bool:
        """Sums the next block. Whether it was the last."""
        rows = min(BLOCK_WORDS, self._left) // self._width
        at = self._words.numel() - self._left
        if rows:
            block = self._words[at : at + rows * self._width].view(rows, self._width).sum(0)
            self._sums = block if self._sums is None else self._sums.add_(block)
            self._left -= rows * self._width
        if self._left >= self._width:
            return False
        if self._left:
            self._sums[: self._left] += self._words[-self._left :]
        return True

    def bytes(self) -> bytes:
        return ctypes.string_at(self._sums.data_ptr(), WORD * self._width)

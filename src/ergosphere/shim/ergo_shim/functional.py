"""Functional collectives that C++ would launch past our groups: those for which torch knows no override in Python."""

from __future__ import annotations

from typing import Any

_kept: "list[Any]" = []  # a torch library's overrides live as long as it does


def reroute(c10d: Any) -> None:
    """Sends `all_gather_into_tensor_out`, which compiled programs use, through the group's own Python method."""
    import sys

    torch: Any = sys.modules["torch"]

    def gather(source: Any, size: int, name: str, *, out: Any) -> Any:
        # Waited for at once: the registry of works in C++ would outlive our handle's Python half.
        c10d._resolve_process_group(name)._allgather_base(out, source).wait()
        return out

    try:
        library = torch.library.Library("_c10d_functional", "IMPL")
        for key in ("CPU", "CUDA"):
            library.impl("all_gather_into_tensor_out", gather, key)
        _kept.append(library)
    except Exception:  # a torch without that operator
        pass

"""A rank's root, built in a fresh mount namespace by the plan that the agent made as data (see `agent/rootfs.py`).

A plan is `{"root": empty folder, "mounts": [{kind, source, target, ro, options}, …], "links": [[path, to], …]}`; mounts
come parents before children. Nothing here decides what a rank may see.
"""

from __future__ import annotations

import os
from typing import Any, Final

from . import kernel

Plan = dict[str, Any]

_KINDS: Final = ("bind", "inner", "tmpfs", "proc", "devpts")


def build(plan: Plan) -> None:
    """Builds the root and enters it. The caller is alone in its mount namespace. OSErrors name the path at fault."""
    root = plan["root"]
    kernel.make_private("/")
    kernel.mount("/", root, "", kernel.MS_BIND)
    for mount in plan["mounts"]:
        _place(root, mount)
    for path, to in plan["links"]:
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        os.symlink(to, root + path)
    for mount in plan["mounts"]:
        if mount["ro"]:
            kernel.make_readonly(root + mount["target"])
    kernel.make_readonly(root)
    os.chdir(root)
    kernel.pivot_here()


def stage(plan: Plan) -> None:
    """For a restore: what CRIU is to put together, in a mount namespace of our own, on a tmpfs over the plan's folder.

    `<root>/root` is a bind of `/` as CRIU's --root has to be, `<root>/<key>` each source. CRIU gives an external mount
    the flags its source has, not those it was dumped with: therefore the sources are made read-only here.
    """
    folder = plan["root"]
    kernel.make_private("/")
    kernel.mount("tmpfs", folder, "tmpfs", 0, "mode=700,size=1m")
    for mount in plan["mounts"]:
        if mount["kind"] == "bind":
            _stage_bind(mount, f"{folder}/{mount['key']}")
    os.mkdir(f"{folder}/root")
    kernel.mount("/", f"{folder}/root", "", kernel.MS_BIND)
    for mount in plan["mounts"]:
        at = _on_host(plan["mounts"], mount["target"])
        if at is not None:
            _make_mountpoint(at, folder=mount["kind"] != "bind" or os.path.isdir(mount["source"]))
    kernel.make_readonly(f"{folder}/root")


def _stage_bind(mount: dict[str, Any], at: str) -> None:
    _make_mountpoint(at, folder=os.path.isdir(mount["source"]))
    kernel.mount(mount["source"], at, "", kernel.MS_BIND)
    if mount["ro"]:
        kernel.make_readonly(at)


def _on_host(mounts: list[dict[str, Any]], target: str) -> str | None:
    """Where the mount point `target` lies on this host; None in a tmpfs, whose content CRIU brings along."""
    above = [mount for mount in mounts if target.startswith(mount["target"] + "/")]
    if not above:
        return target
    parent = max(above, key=lambda mount: len(mount["target"]))
    return str(parent["source"]) + target[len(parent["target"]) :] if parent["kind"] == "bind" else None


def _place(root: str, mount: dict[str, Any]) -> None:
    kind, source, target = mount["kind"], mount["source"], root + mount["target"]
    assert kind in _KINDS, kind
    if kind == "inner":  # a bind of something inside the new root
        if not os.path.islink(target):  # in a container /dev/ptmx is a link to pts/ptmx: nothing to do
            kernel.mount(root + source, target, "", kernel.MS_BIND)
    elif kind == "bind":
        _make_mountpoint(target, folder=os.path.isdir(source))
        kernel.mount(source, target, "", kernel.MS_BIND)
    else:
        _make_mountpoint(target, folder=True)
        flags = kernel.MS_NOSUID | kernel.MS_NODEV if kind == "tmpfs" else kernel.MS_NOSUID | kernel.MS_NOEXEC
        kernel.mount(kind, target, kind, flags, mount["options"])


def _make_mountpoint(target: str, folder: bool) -> None:
    """Most are there on the host, or lie in a tmpfs; on another machine than the first one may have to be made."""
    if os.path.lexists(target):
        return
    if folder:
        os.makedirs(target, mode=0o755, exist_ok=True)
        return
    os.makedirs(os.path.dirname(target), mode=0o755, exist_ok=True)
    os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))

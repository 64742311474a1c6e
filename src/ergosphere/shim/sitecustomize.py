"""First on PYTHONPATH: arms the import hook, then runs the `sitecustomize` that would have run without us.

Nothing else may live here: this is executed by every Python program of a rank, most of which never train."""

import os
import sys


def _arm() -> None:
    try:
        from ergo_shim import hook  # type: ignore[import-not-found,unused-ignore]

        hook.arm()
    except Exception:  # a shim that cannot start must not be noticed
        pass


def _chain() -> None:
    # What `importlib` is made of, and what is loaded already: the packages around it take milliseconds.
    from _frozen_importlib import module_from_spec
    from _frozen_importlib_external import PathFinder

    here = os.path.dirname(os.path.abspath(__file__))
    elsewhere = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]
    spec = PathFinder.find_spec("sitecustomize", elsewhere)
    if spec is None or spec.loader is None:
        return
    module = module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


_arm()
_chain()

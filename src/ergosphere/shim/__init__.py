"""What lives in the user's process: a directory that ships alone, standard library only, Python 3.9 and later.

`sitecustomize.py` and `ergo_shim/` are copied beside a rank; the rest of `ergosphere` reads only
`ergo_shim.control_file` and `ergo_shim.futex` from here."""

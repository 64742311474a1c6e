#!/bin/sh
# Makes .venv from the lock files and provisions CRIU. Idempotent: what is up to date is left alone.
set -eu
venv=$1
python=${PYTHON:-python3}

say() { printf '\033[2m· %s\033[0m\n' "$1"; }
fail() { printf 'error: %s\nremedy: %s\n' "$1" "$2" >&2; exit 1; }

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "$python is not Python 3.11 or later" "install python3.11, or name one: make PYTHON=/path/to/python3.11 …"
[ "$(id -u)" = 0 ] || fail "freezing processes needs root" "run make as root"

want=$(cat requirements/*.lock pyproject.toml | sha256sum | cut -c1-16)
if [ "$(cat "$venv/.made-from" 2>/dev/null)" != "$want" ]; then
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        say "Python's venv module is a package of its own here: installing it"
        apt-get update -q && apt-get install -q -y python3-venv ||
            fail "Python's venv module is missing and could not be installed" "apt-get install python3-venv"
    fi
    say "making $venv"
    "$python" -m venv "$venv"
    say "installing the locked dependencies"
    "$venv/bin/pip" install --disable-pip-version-check -qq -r requirements/base.lock -r requirements/sim.lock \
        -r requirements/test.lock
    say "installing torch 2.13.0 (used by the examples and tests only)"
    "$venv/bin/pip" install --disable-pip-version-check -qq -r requirements/torch.lock
    "$venv/bin/pip" install --disable-pip-version-check -qq --no-deps --no-build-isolation -e .
    printf %s "$want" > "$venv/.made-from"
fi
"$venv/bin/python" -m ergosphere.agent.provision "$venv/criu"

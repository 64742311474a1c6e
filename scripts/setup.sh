#!/bin/sh
# Makes .venv from the lock files and provisions CRIU. Idempotent: what is up to date is left alone.
set -eu
venv=$1
here=$(pwd -P)
python=${PYTHON:-python3}
tell_every_s=10

say() { printf '\033[2m· %s\033[0m\n' "$1"; }
fail() { printf 'error: %s\nremedy: %s\n' "$1" "$2" >&2; exit 1; }

# pip's own bars on a terminal; elsewhere a line now and then, with how much has arrived.
install() {
    if [ -t 1 ]; then
        "$venv/bin/python" -m pip install --disable-pip-version-check --no-compile "$@"
        return
    fi
    mkdir -p "$venv/arriving"
    tell_size & teller=$!
    trap 'kill $teller 2>/dev/null || :' EXIT
    trap 'exit 130' INT TERM
    TMPDIR="$here/$venv/arriving" "$venv/bin/python" -m pip install --disable-pip-version-check --no-compile -qq "$@"
    kill $teller
    trap - EXIT INT TERM
    rm -rf "$venv/arriving"
}

tell_size() {
    while sleep $tell_every_s > /dev/null 2>&1 && kill -0 $$ 2>/dev/null; do
        say "$(du -sm "$venv" | cut -f1) MB so far"
    done
}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "$python is not Python 3.11 or later" "install python3.11, or name one: make PYTHON=/path/to/python3.11 …"
[ "$(id -u)" = 0 ] || fail "freezing processes needs root" "run make as root"

# Its scripts and its link to src/ name this place: copied elsewhere, it would run what was left behind.
want=$({ echo "$here"; cat requirements/*.lock pyproject.toml; } | sha256sum | cut -c1-16)
if [ "$(cat "$venv/.made-from" 2>/dev/null)" != "$want" ]; then
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        say "Python's venv module is a package of its own here: installing it"
        apt-get update -q && apt-get install -q -y python3-venv ||
            fail "Python's venv module is missing and could not be installed" "apt-get install python3-venv"
    fi
    if [ -e "$venv/bin/pip" ] && ! grep -Fq "$here/$venv/bin/" "$venv/bin/pip"; then
        say "$venv was made in another place: it is made anew"
        rm -rf "$venv"
    fi
    say "making $venv"
    "$python" -m venv "$venv"
    say "installing the locked dependencies"
    install -r requirements/base.lock -r requirements/sim.lock -r requirements/test.lock
    say "installing torch 2.13.0 (used by the examples and tests only)"
    install -r requirements/torch.lock
    say "installing ergosphere itself, from src/"
    install --no-deps --no-build-isolation -e .
    say "compiling it on all cores"
    "$venv/bin/python" -m compileall -q -j 0 -x /tests/ "$venv/lib" > /dev/null || : # some are templates in an old Python
    printf %s "$want" > "$venv/.made-from"
fi
"$venv/bin/python" -m ergosphere.agent.provision "$venv/criu"

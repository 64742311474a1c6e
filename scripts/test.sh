#!/bin/sh
# Every check and test. Fleets mostly wait and programs mostly compute, so that each core has two workers; the checks run
# beside them, and are heard of as soon as they are done. The order of the tests: tests/conftest.py.
set -u
bin=$1
workers_max=8 # of about half a gigabyte each, beside what their tests start
workers=$((2 * $(nproc)))
[ "$workers" -le $workers_max ] || workers=$workers_max

sh scripts/lint.sh "$bin" &
checks=$!
trap 'kill $checks 2>/dev/null; exit 130' INT TERM
"$bin/python" -m pytest tests -n "$workers" --dist loadfile --no-loadscope-reorder --durations=10
failed=$?
wait $checks || failed=1
exit $failed

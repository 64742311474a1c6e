#!/bin/sh
# All tests, in three lanes side by side: two cores are idle half the time in one, since much of it is waiting. Each lane
# is shown whole, the last as it goes.
set -u
python=$1
folder=$(mktemp -d)
trap 'kill $fleets $maths $rest 2>/dev/null; rm -rf "$folder"; exit 130' INT TERM
MATHS="tests/shim tests/core tests/sim tests/examples"

"$python" -m pytest tests/e2e --durations=5 > "$folder/fleets" 2>&1 &
fleets=$!
"$python" -m pytest $MATHS --durations=5 > "$folder/maths" 2>&1 &
maths=$!
"$python" -m pytest tests $(printf -- '--ignore %s ' tests/e2e $MATHS) --durations=5 &
rest=$!
wait $rest
failed=$?
wait $fleets || failed=1
wait $maths || failed=1
cat "$folder/fleets" "$folder/maths"
rm -rf "$folder"
exit $failed

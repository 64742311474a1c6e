#!/bin/sh
# All tests, as two runs side by side: those that drive whole fleets from outside, and the rest. Both are shown whole.
set -u
python=$1
folder=$(mktemp -d)
trap 'kill $fleets $rest 2>/dev/null; rm -rf "$folder"; exit 130' INT TERM

"$python" -m pytest tests/e2e tests/chaos tests/cli --durations=5 > "$folder/fleets" 2>&1 &
fleets=$!
"$python" -m pytest tests --ignore tests/e2e --ignore tests/chaos --ignore tests/cli --durations=5 &
rest=$!
wait $rest
rest_failed=$?
wait $fleets
fleets_failed=$?
cat "$folder/fleets"
rm -rf "$folder"
[ $rest_failed = 0 ] && [ $fleets_failed = 0 ]

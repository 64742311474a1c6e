#!/bin/sh
# Looks for large gaps between primes, one block of numbers per step: a sieve in awk, a copy of its table in
# blocks.tsv, and a report whose digest runs over everything before it. At the end the blocks are sorted by gap.
#
#     sh primes.sh [--steps N] [--block NUMBERS]
set -eu
export LC_ALL=C

steps=300 block=60000 first=1000000000
while [ $# -gt 1 ]; do
    case $1 in
        --steps) steps=$2 ;;
        --block) block=$2 ;;
        *) echo "usage: primes.sh [--steps N] [--block NUMBERS]" >&2; exit 2 ;;
    esac
    shift 2
done

sieve() {
    awk -v steps="$steps" -v block="$block" -v first="$first" '
        function small_primes(limit,    i, j, out) {
            for (i = 2; i <= limit; i++)
                if (!(i in out)) { prime[++primes] = i; for (j = i * i; j <= limit; j += i) out[j] }
        }
        BEGIN {
            OFS = "\t"
            small_primes(int(sqrt(first + steps * block)) + 1)
            for (step = 1; step <= steps; step++) {
                low = first + (step - 1) * block
                split("", composite)
                for (i = 1; i <= primes; i++) {
                    p = prime[i]
                    for (n = (p - low % p) % p; n < block; n += p) composite[n] = 1
                }
                found = gap = at = 0
                for (n = 0; n < block; n++) {
                    if (n in composite) continue
                    found++
                    if (last && low + n - last > gap) { gap = low + n - last; at = last }
                    last = low + n
                }
                print step, found, gap, at
                fflush()
            }
        }'
}

report() {
    digest=0
    while read -r step found gap at; do
        digest=$(echo "$digest $step $found $gap $at" | sha256sum | cut -d ' ' -f 1)
        echo "step $step: $found primes, largest gap $gap after $at, so far $digest"
    done
}

sieve | tee blocks.tsv | report
sort -t "$(printf '\t')" -k 3,3nr -k 1,1n blocks.tsv > gaps.tsv
echo "the largest gaps:"
sed 5q gaps.tsv
echo "digest $(sha256sum < gaps.tsv | cut -d ' ' -f 1)"

#!/bin/sh
# What is checked without running anything. All of it is checked, whatever fails first.
bin=$1
failed=0
"$bin/ruff" check src tests demo bench examples || failed=1
"$bin/ruff" format --quiet --check src tests demo bench examples || failed=1
"$bin/mypy" || failed=1
"$bin/lint-imports" --no-cache || failed=1
exit $failed

#!/bin/sh
# predict.sh INPUT RESULT [key=value …]: predicts the test file in the folder INPUT by a bundle and writes RESULT.
#
#   docker run --rm --network none --read-only --tmpfs /tmp -v "$PWD/input:/input:ro" -v "$PWD/result:/result" ct-reports
#
# Nothing but the bundle ($BUNDLE) and the test file is read; no network is needed. The test file is the one that
# matches *test*.csv, or the only .csv file in the folder.
set -eu

input=${1:-/input}
result=${2:-/result/result.csv}
[ $# -lt 2 ] || shift 2

only() {
    [ $# -eq 1 ] && [ -f "$1" ] && test_file=$1
}

if ! only "$input"/*test*.csv && ! only "$input"/*.csv; then
    echo "predict.sh: expected one file *test*.csv, or one .csv file, in the folder $input" >&2
    exit 2
fi
exec "${PYTHON:-python}" -m src predict --bundle "${BUNDLE:-/app/model.bundle}" "$test_file" --to "$result" "$@"

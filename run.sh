#!/usr/bin/env bash
# ./run.sh [VERB …]: sets up .venv once, then runs the pipeline or one verb of it. ./run.sh --help lists the verbs.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=$root/.venv
stamp=$venv/.requirements

fail() {
    echo "run.sh: $*" >&2
    exit 1
}

find_python() {
    local name
    for name in "${PYTHON:-}" python3.13 python3.12 python3.11 python3 python; do
        if [ -n "$name" ] && command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    fail "no Python 3.11 or newer found. Install one, or name it: PYTHON=/path/to/python ./run.sh"
}

set_up() {
    local wanted python
    wanted=$(cksum <"$root/requirements.txt")
    [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && return
    # One set-up at a time; whoever waited finds it done.
    if command -v flock >/dev/null; then
        exec 9>"$root/.venv.lock"
        flock 9
        [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && { exec 9>&-; return; }
    fi
    python=$(find_python)
    # A venv without pip is one whose making was cut short.
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        echo "run.sh: making .venv with $("$python" --version) …" >&2
        "$python" -m venv --clear "$venv" || fail "python -m venv failed; on Debian and Ubuntu: apt install python3-venv"
    fi
    echo "run.sh: installing requirements.txt into .venv (minutes, once) …" >&2
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$root/requirements.txt" ||
        fail "pip could not install requirements.txt; the reason stands above. Run the same command to try again."
    echo "$wanted" >"$stamp"
    if command -v flock >/dev/null; then exec 9>&-; fi
}

set_up
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
if [ "${1:-}" = test ]; then
    shift
    cd "$root"
    exec "$venv/bin/python" -m pytest "$@"
fi
exec "$venv/bin/python" -m src "$@"

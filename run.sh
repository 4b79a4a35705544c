#!/bin/sh
# ./run.sh [VERB …]: sets up .venv once, then runs the pipeline or one verb of it. ./run.sh --help lists the verbs.
set -eu

fail() {
    echo "run.sh: $*" >&2
    exit 1
}

# Folder of this file, also where it was called by a link.
here=$0
while [ -h "$here" ]; do
    target=$(readlink "$here")
    case $target in
        /*) here=$target ;;
        *) here=$(dirname -- "$here")/$target ;;
    esac
done
root=$(CDPATH='' cd -- "$(dirname -- "$here")" && pwd)
case $root in
    *:*) fail "Python finds no modules in a folder with a colon in its name. Move the project: $root" ;;
esac

find_python() {
    for name in "${PYTHON:-}" python3.13 python3.12 python3.11 python3 python python3.14 python3.15 python3.16; do
        if [ -n "$name" ] && command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    fail "no Python 3.11 or newer found. Install one, or name it: PYTHON=/path/to/python ./run.sh"
}

is_set_up() {
    [ -x "$venv/bin/python" ] && [ "$(cat "$venv/.requirements" 2>/dev/null)" = "$wanted" ]
}

pip_install() {
    # Files in wheels/ are for machines without a network: nothing else is asked then.
    if [ -d "$root/wheels" ]; then
        unset PIP_FIND_LINKS
        set -- --no-index -f "$root/wheels" "$@"
    fi
    PYTHONUNBUFFERED=1 "$venv/bin/python" -m pip install --no-user "$@" --disable-pip-version-check -r "$root/requirements.txt" 9>&-
}

# Says on one line of a terminal what pip downloads or how many packages it has found.
show_progress() {
    count=0 told=
    while IFS= read -r line; do
        case $line in
            Collecting* | Processing*) count=$((count + 1)) told="$count packages found" ;;
            *" Downloading "*) told="downloading ${line#*Downloading }" ;;
            Installing*) told="installing $count packages, which takes longest" ;;
            Successfully*) told= ;;
            *) continue ;;
        esac
        printf '\r\033[K%.79s' "${told:+run.sh: $told}"
    done
}

set_up() {
    python=$(find_python)
    shown=$venv
    [ "$venv" != "$root/.venv" ] || shown=.venv
    mkdir -p "$(dirname -- "$venv")" && : >>"$venv.lock" || fail "$venv cannot be made; the reason stands above"
    # One set-up at a time; whoever waited finds it done. The lock is on the shell's own file, and outlives this Python.
    exec 9>>"$venv.lock"
    "$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)' 2>/dev/null ||
        echo "run.sh: there are no locks on $venv.lock, so do not start a second set-up before this one is done" >&2
    is_set_up && return
    # Made anew: one without pip, and one whose set-up was killed, for half a package passes for a whole one.
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1 || { [ -s "$venv.lock" ] && [ ! -h "$venv" ]; }; then
        echo "run.sh: making $shown with $("$python" --version) …" >&2
        echo unfinished >"$venv.lock"
        "$python" -m venv --clear "$venv" || fail "python -m venv failed; the reason stands above. On Debian and Ubuntu: apt install python3-venv"
    fi
    free=$("$python" -c 'import shutil, sys; print(shutil.disk_usage(sys.argv[1]).free >> 30)' "$venv" 2>/dev/null) || free=
    source=requirements.txt
    [ ! -d "$root/wheels" ] || source="requirements.txt from the files in wheels/ alone"
    echo "run.sh: installing $source into $shown (once: about 2 minutes and 1.6 GB of disk, several GB more with the CUDA build of torch${free:+; $free GB are free}) …" >&2
    echo unfinished >"$venv.lock"
    rm -f "$venv/.requirements"
    # The user's settings of pip may name another index, but no other place than .venv.
    unset PIP_USER PIP_TARGET PIP_PREFIX PIP_ROOT PIP_PYTHON PIP_DRY_RUN PIP_NO_DEPS PIP_REQUIREMENT PIP_EDITABLE
    if [ -t 2 ]; then
        code=$({ { pip_install --progress-bar=off 3>&- && echo 0 >&3 || echo 1 >&3; } | show_progress >&2; } 3>&1)
    else
        pip_install --quiet && code=0 || code=1
    fi
    [ "$code" = 0 ] || {
        : >"$venv.lock"
        fail "pip could not install $source; the reason stands above. Run the same command to try again."
    }
    "$venv/bin/python" -c 'import torch' || fail "torch was installed and cannot be imported; the reason stands above. If it is not in $venv, see: $venv/bin/python -m pip config list"
    echo "$wanted" >"$venv/.requirements"
    : >"$venv.lock"
}

# Help needs nothing that is installed: before the set-up it is read from files, which tests keep like what Python says.
is_help() {
    [ "${1:-}" != help ] || return 0
    for word; do
        case $word in -h | --help) return 0 ;; esac
    done
    return 1
}

show_help() {
    language=${LANGUAGE:-${LC_ALL:-${LC_MESSAGES:-${LANG:-}}}} verb='' before=''
    for word; do
        case $word in
            --lang=*) language=${word#--lang=} ;;
            *) [ "$before" != --lang ] || language=$word ;;
        esac
        # The verb is the first word behind the options that may stand before it.
        if [ -z "$verb" ] && [ "$before" != --lang ]; then
            case $word in
                --lang | --lang=* | --quiet | --json) ;;
                -h | --help | help) verb=help ;;
                -* | *=*) verb=pipeline ;;
                *) verb=$word ;;
            esac
        fi
        before=$word
    done
    case $language in
        zh*) pages=$root/src/locale/help.zh.txt ;;
        *) pages=$root/src/locale/help.txt ;;
    esac
    shown=
    while IFS= read -r line; do
        case $line in
            "=== $verb") shown=yes ;;
            "=== "*) [ -z "$shown" ] || return 0 ;;
            *) [ -z "$shown" ] || printf '%s\n' "$line" ;;
        esac
    done <"$pages"
    [ -n "$shown" ] || fail "unknown verb $verb. ./run.sh --help lists them"
}

# No module of another project: Python looks neither into the current folder nor where variables of the user point, and
# reads and writes UTF-8 in every locale.
unset PYTHONHOME PYTHONSTARTUP PYTHONINSPECT PYTHONOPTIMIZE PYTHONWARNINGS PYTHONIOENCODING PYTHONPLATLIBDIR
export PYTHONPATH="$root" PYTHONSAFEPATH=1 PYTHONUTF8=1
wanted=$(cksum <"$root/requirements.txt")
venv=$root/.venv
if ! is_set_up && ! [ -w "$root" ]; then
    cache=${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}
    [ -n "$cache" ] || fail "$root cannot be written, and without HOME there is no other place for .venv. Set HOME, or run once as a user who may write there"
    venv=$cache/run.sh/$(printf %s "$root" | cksum | tr ' ' _)
fi
if ! is_set_up && is_help "$@"; then
    show_help "$@"
    exit 0
fi
is_set_up || set_up
exec 9>&-
if [ "${1:-}" = test ]; then
    shift
    cd -- "$root"
    exec "$venv/bin/python" -m pytest "$@"
fi
exec "$venv/bin/python" -m src "$@"

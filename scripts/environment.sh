# Sourced by ./run and ./test, with $root set to the checkout: makes .venv from uv.lock. POSIX sh.
# Nothing is written outside .venv, except into uv's package cache where the user has one already.

venv=$root/.venv
python=$venv/bin/python
lock=$venv/.setup-lock

say() {
    printf '%s\n' "$*" >&2
}

# prepare_environment run|dev: "dev" is what the tests need on top of "run".
# A stamp with everything that the environment was made from says that nothing is to be done.
prepare_environment() {
    if is_prepared "$1"; then
        return
    fi
    mkdir -p "$venv"
    take_lock
    trap release_lock EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    if ! is_prepared "$1"; then
        say "Setting up Jobdeck's Python packages in $venv. This is done once, and takes a minute."
        # A process of its own, so that its settings do not reach Jobdeck.
        (make_environment "$1") >&2
        fingerprint >"$venv/.stamp-$1"
    fi
    release_lock
    trap - EXIT INT TERM HUP
}

is_prepared() {
    [ -x "$python" ] || return 1
    made_from=$(fingerprint)
    for stamp in "$venv/.stamp-$1" "$venv/.stamp-dev"; do
        if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$made_from" ]; then
            return 0
        fi
    done
    return 1
}

# The folder belongs to it because a virtual environment does not survive a move, and Python's version
# because an upgrade of the Python below can take the packages' folder away.
fingerprint() {
    cat "$root/uv.lock" "$root/pyproject.toml" | cksum
    "$python" -V 2>&1 || true
    printf '%s\n' "$root"
}

make_environment() {
    rm -f "$venv/.stamp-run" "$venv/.stamp-dev"
    if ! is_sound; then
        find "$venv" -mindepth 1 -maxdepth 1 ! -name .setup-lock -exec rm -rf {} +
    fi
    TMPDIR=$venv/.tmp
    export TMPDIR
    mkdir -p "$TMPDIR"
    choose_cache
    trust_this_machine
    find_python
    find_uv
    unset VIRTUAL_ENV PYTHONHOME PYTHONPATH
    if [ ! -x "$python" ]; then
        "$uv" venv --quiet --allow-existing --python "${base:->=3.11}" "$venv"
    fi
    if [ "$1" = dev ]; then
        groups=--all-groups
    else
        groups=--no-dev
    fi
    quiet=--quiet
    if [ -t 2 ]; then
        quiet=
    fi
    # Not exact, so that ./run leaves alone what ./test has added.
    UV_PROJECT_ENVIRONMENT=$venv "$uv" sync --project "$root" --frozen --inexact --all-extras "$groups" \
        --compile-bytecode --python "$python" $quiet
    rm -rf "$venv/.cache" "$TMPDIR"
}

# Whether .venv is an environment that was made in this place (which its scripts quote) and whose Python starts.
is_sound() {
    grep -qF -- "$venv" "$venv/bin/activate" 2>/dev/null && is_new_enough "$python"
}

# A package cache that the user has is used, for it may be warm and the machine offline. Nobody is given one:
# without it, the packages pass through .venv.
choose_cache() {
    standard=${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/uv
    if [ -z "${UV_CACHE_DIR:-}" ] && [ ! -w "$standard" ]; then
        UV_CACHE_DIR=$venv/.cache
        export UV_CACHE_DIR
    fi
    installed=${XDG_DATA_HOME:-${HOME:-/nonexistent}/.local/share}/uv/python
    if [ -z "${UV_PYTHON_INSTALL_DIR:-}" ] && [ ! -w "$installed" ]; then
        UV_PYTHON_INSTALL_DIR=$venv/.python
        export UV_PYTHON_INSTALL_DIR
    fi
}

# uv brings certificates of its own, which lack those of a company's proxy; this machine's have them.
trust_this_machine() {
    for bundle in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
        if [ -z "${SSL_CERT_FILE:-}" ] && [ -r "$bundle" ]; then
            SSL_CERT_FILE=$bundle
            export SSL_CERT_FILE
        fi
    done
}

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# Sets base to a Python that is new enough, or to nothing.
find_python() {
    for base in python3 python3.14 python3.13 python3.12 python3.11 python; do
        if is_new_enough "$base"; then
            base=$("$base" -c 'import sys; print(sys.executable)')
            return
        fi
    done
    base=
}

# Sets uv to the one on PATH, else to one of our own inside .venv, which any Python with pip or venv can fetch.
find_uv() {
    uv=uv
    if uv --version >/dev/null 2>&1; then
        return
    fi
    uv=$venv/.uv/bin/uv
    if [ -x "$uv" ]; then
        return
    fi
    if [ -z "$base" ]; then
        say "Jobdeck needs Python 3.11 or newer, or uv, and found neither on PATH."
        say "Install one of them, then try again."
        exit 1
    fi
    export PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
    if "$base" -m pip --version >/dev/null 2>&1; then
        "$base" -m pip install --quiet --no-compile --require-hashes --target "$venv/.uv" -r "$root/scripts/uv.txt"
    elif "$base" -m venv "$venv/.uv"; then
        "$venv/.uv/bin/python" -m pip install --quiet --require-hashes -r "$root/scripts/uv.txt"
    else
        say "$base has neither pip nor venv. Install them (on Debian: apt install python3-venv) or uv, then try again."
        exit 1
    fi
}

# One set-up at a time. The lock is a folder that holds a folder named after its owner's process: both are made
# and removed in one step each, so that of several who find the owner dead only one can clear it away.
take_lock() {
    empty=0
    if [ ! -w "$venv" ]; then
        say "Jobdeck's packages are to be set up in $venv, which this user may not write."
        exit 1
    fi
    until mkdir "$lock" 2>/dev/null; do
        for owner in "$lock"/*; do
            if [ ! -d "$owner" ]; then
                empty=$((empty + 1))
                if [ "$empty" -gt 50 ]; then
                    rmdir "$lock" 2>/dev/null || true
                fi
            elif ! kill -0 "${owner##*/}" 2>/dev/null && rmdir "$owner" 2>/dev/null; then
                rmdir "$lock"
            fi
        done
        sleep 0.2 2>/dev/null || sleep 1
    done
    mkdir "$lock/$$"
}

release_lock() {
    rmdir "$lock/$$" "$lock" 2>/dev/null || true
}

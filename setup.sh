#!/bin/sh
# Everything `make demo` and `make test` need: Debian packages where they are missing, and .venv.
set -eu
cd "$(dirname "$0")"
python=${PYTHON:-python3}

missing=""
command -v prometheus >/dev/null && command -v promtool >/dev/null || missing="$missing prometheus"
command -v prometheus-alertmanager >/dev/null && command -v amtool >/dev/null ||
    missing="$missing prometheus-alertmanager"
command -v cc >/dev/null || missing="$missing gcc libc6-dev"
command -v "$python" >/dev/null || missing="$missing python3"
"$python" -c 'import ensurepip' 2>/dev/null || missing="$missing python3-venv"

install() {
    if [ "$(id -u)" = 0 ]; then
        as_root="env DEBIAN_FRONTEND=noninteractive"
    elif sudo -n true 2>/dev/null; then
        as_root="sudo -n env DEBIAN_FRONTEND=noninteractive"
    else
        echo "Not installed, and sudo wants a password; please run: sudo apt-get install $*" >&2
        return 1
    fi
    $as_root apt-get update -qq && $as_root apt-get install -y -qq --no-install-recommends "$@"
}

if [ -n "$missing" ]; then
    if ! command -v apt-get >/dev/null; then
        echo "Not installed, and there is no apt-get to do it; please install:$missing" >&2
        exit 1
    fi
    # shellcheck disable=SC2086  # a list of packages
    install $missing
fi

# Only the tests of the page and pictures of dashboards need a browser, and not every distribution has this one.
command -v chromium >/dev/null || install chromium || echo "Without chromium the tests of the page fail" >&2

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "Python 3.11 or newer is needed, $python is $("$python" -V 2>&1); name one with PYTHON=…" >&2
    exit 1
fi
# An interrupted venv has python and no pip.
[ -x .venv/bin/pip ] || "$python" -m venv .venv
echo "Installing into .venv; torch takes minutes on a slow line"
.venv/bin/python -m pip install --quiet --constraint tests/constraints.txt \
    --editable ./trainer_hooks --editable '.[all,dev]'
touch .venv/.complete

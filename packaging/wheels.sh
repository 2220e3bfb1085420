#!/bin/bash
# Builds dist/vpool-*.whl and, in dist/wheels, what it needs, so that no compiler and no index is needed where it is installed:
#   python3.11 -m venv /opt/vpool && /opt/vpool/bin/pip install --no-index --find-links dist/wheels dist/vpool-*.whl
# usage: wheels.sh PYTHON   (of an environment that has maturin)
set -eu
cd "$(dirname "$0")/.."
python=$(realpath --no-symlinks "$1")
export PATH="$(dirname "$python"):$PATH" PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1

rm -rf dist/vpool-*.whl target/wheel
"$python" -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir target/wheel .
mkdir -p dist/wheels

# Only what has changed in the lock is fetched or built again.
stamp=dist/wheels/.lock
if ! cmp --silent requirements/runtime.txt "$stamp"; then
    rm -rf dist/wheels
    "$python" -m pip wheel --quiet --no-deps --require-hashes --wheel-dir dist/wheels --requirement requirements/runtime.txt
    cp requirements/runtime.txt "$stamp"
fi
mv target/wheel/vpool-*.whl dist/
ls dist/vpool-*.whl

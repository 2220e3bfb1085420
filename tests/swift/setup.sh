#!/bin/sh
# Make the environment in which the tests' Swift runs: tests/swift/setup.sh [DIRECTORY]
# Safe to call again and from several processes at once; does nothing when the environment is complete.
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd)
environment=${1:-${VPOOL_SWIFT_VENV:-$top/.venv-swift}}
mkdir -p "$environment"
exec 9>"$environment/.setup-lock"
flock 9
"$environment/bin/python" -c 'import swift, pyeclib.ec_iface' 2>/dev/null && exit 0
"${PYTHON:-python3}" -m venv "$environment"
locked="$top/requirements/swift-server.txt"
if [ -f "$locked" ]; then
    "$environment/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$locked"
else
    "$environment/bin/python" -m pip install --quiet --disable-pip-version-check swift==2.38.3
fi
"$environment/bin/python" -c 'import swift, pyeclib.ec_iface'

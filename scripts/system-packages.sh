#!/bin/bash
# Installs the Debian packages that vPool and its tests need and this machine lacks.  usage: system-packages.sh PYTHON
set -eu

python=$1
packages=(
    fuse3 libfuse3-dev pkg-config gcc libc6-dev   # pyfuse3 is built from source
    curl procps                                   # tried by hand and by the tests
    fio qemu-system-x86 qemu-utils                # clients that the tests and the benchmark use
    e2fsprogs xfsprogs
    postgresql-15 git make rsync sqlite3 stress-ng vim-tiny
    liberasurecode1                               # of the Swift that the tests start
)

if ! command -v "$python" >/dev/null; then
    packages+=(python3.11 python3.11-venv python3.11-dev)
elif ! "$python" - <<'PYTHON'
import ensurepip, os, sysconfig, venv
raise SystemExit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))
PYTHON
then
    packages+=(python3.11-venv python3.11-dev)
fi 2>/dev/null

missing=()
for package in "${packages[@]}"; do
    [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -ne 0 ]; then
    echo "missing Debian packages; as root: apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
fi
case " ${missing[*]} " in *" postgresql-15 "*)
    # The tests want the programs, not a server that Debian starts on the side.
    if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
        mkdir -p /etc/postgresql-common
        echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
    fi ;;
esac
export DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes
apt-get update --quiet=2
apt-get install --quiet=2 --yes --no-install-recommends -o Dpkg::Options::=--force-confold "${missing[@]}" >/dev/null

#!/bin/bash
# Builds dist/vpool_VERSION_ARCH.deb from the wheels in dist: everything under /usr/lib/vpool, for Debian's Python 3.11.
# usage: deb.sh PYTHON   (of an environment that has vPool's dependencies)
set -eu
cd "$(dirname "$0")/.."
python=$(realpath --no-symlinks "$1")
export PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
umask 022

wheel=$(echo dist/vpool-*.whl)
version=$(basename "$wheel" | cut -d- -f2)
architecture=$(dpkg --print-architecture)
root=target/deb/root
rm -rf target/deb && mkdir -p "$root"/{DEBIAN,etc/vpool,usr/bin,usr/lib,lib/systemd/system,usr/share/{man/man1,man/man5,doc/vpool}}

"$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$root/usr/lib/vpool" dist/wheels/*.whl "$wheel"
rm -rf "$root/usr/lib/vpool/bin"
find "$root/usr/lib/vpool" -name '*.so' -exec strip --strip-unneeded {} +
"$python" -m compileall -q --invalidation-mode unchecked-hash -s "$root" -p / "$root/usr/lib/vpool"

install -m 755 packaging/debian/launcher "$root/usr/bin/vpool"
install -m 644 packaging/vpool.service "$root/lib/systemd/system/"
"$python" -m vpool config show --docs --config packaging/node.toml >"$root/etc/vpool/vpool.toml"
"$python" -m vpool config check "$root/etc/vpool/vpool.toml" >/dev/null
install -m 600 packaging/environment "$root/etc/vpool/environment"

"$python" -m vpool.manual target/deb/man
install -m 644 target/deb/man/*.1 "$root/usr/share/man/man1/"
install -m 644 target/deb/man/*.5 "$root/usr/share/man/man5/"
gzip -9n "$root"/usr/share/man/man?/*
install -D -m 644 <("$python" -m vpool.completion bash) "$root/usr/share/bash-completion/completions/vpool"
install -D -m 644 <("$python" -m vpool.completion zsh) "$root/usr/share/zsh/vendor-completions/_vpool"
install -D -m 644 <("$python" -m vpool.completion fish) "$root/usr/share/fish/vendor_completions.d/vpool.fish"
install -m 644 packaging/debian/copyright README.md docs/*.md "$root/usr/share/doc/vpool/"
gzip -9nc CHANGELOG.md >"$root/usr/share/doc/vpool/changelog.gz"

glibc=$(find "$root" -name '*.so*' -exec objdump -T {} + 2>/dev/null | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -1 | cut -d_ -f2)
sed -e "s/@VERSION@/$version/" -e "s/@ARCHITECTURE@/$architecture/" -e "s/@GLIBC@/$glibc/" \
    -e "s/@SIZE@/$(du -sk --exclude=DEBIAN "$root" | cut -f1)/" packaging/debian/control.in >"$root/DEBIAN/control"
install -m 755 packaging/debian/{postinst,prerm,postrm} "$root/DEBIAN/"
(cd "$root" && find etc -type f -printf '/%p\n') >"$root/DEBIAN/conffiles"
(cd "$root" && find usr lib -type f -exec md5sum {} +) >"$root/DEBIAN/md5sums"
rm -f dist/vpool_*.deb
dpkg-deb --root-owner-group -Zxz --build "$root" "dist/vpool_${version}_$architecture.deb" >/dev/null
ls dist/vpool_*.deb

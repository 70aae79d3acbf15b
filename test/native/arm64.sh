#!/bin/sh
# Compiles everything native for arm64 on another machine, and runs what needs no arm64 kernel: the static checks of the
# kernel's structures, the tests of the pure parts, and the gate's help. Builds in build/arm64. As root on Debian it installs
# the compiler and qemu; Debian's arm64 libraries are unpacked in build/arm64, and not installed.
set -eu
cd "$(dirname "$0")/../.."
root=$PWD
work=$root/build/arm64
PATH="$root/node_modules/.bin:$PATH"
export PATH

missing=
command -v aarch64-linux-gnu-g++ >/dev/null || missing='crossbuild-essential-arm64'
command -v qemu-aarch64-static >/dev/null || missing="$missing qemu-user-static"
if [ -n "$missing" ]; then
  [ "$(id -u)" = 0 ] || { echo "arm64: missing here; as root: apt-get install$missing" >&2; exit 1; }
  # shellcheck disable=SC2086 # a list of names
  { apt-get install --yes --no-install-recommends $missing || { apt-get update &&
    apt-get install --yes --no-install-recommends $missing; }; } >/dev/null 2>&1
fi

# Debian's libraries and kernel headers for arm64, by lists of their own: the machine's apt and dpkg hear nothing of another architecture.
if [ ! -e "$work/sysroot/done" ]; then
  rm -rf "$work/sysroot"
  mkdir -p "$work/sysroot" "$work/apt/lists/partial" "$work/apt/cache/archives/partial" "$work/packages"
  foreign() {
    apt-get -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State::Lists="$work/apt/lists" \
      -o Dir::Cache="$work/apt/cache" "$@"
  }
  foreign update >/dev/null
  (cd "$work/packages" && foreign download linux-libc-dev libip4tc-dev libip6tc-dev libiptc-dev libip4tc2 libip6tc2) >/dev/null 2>&1
  for package in "$work/packages"/*.deb; do dpkg-deb --extract "$package" "$work/sysroot"; done
  : >"$work/sysroot/done"
fi
libraries=$work/sysroot/usr/lib/aarch64-linux-gnu

# A copy of the sources, since node-gyp builds in the folder of binding.gyp.
mkdir -p "$work/source"
for part in binding.gyp native test bench package.json; do
  rm -rf "$work/source/$part"
  cp -r "$part" "$work/source/"
done
[ -e "$work/source/node_modules" ] || ln -s "$root/node_modules" "$work/source/node_modules"
log=$work/log
nodedir=$(./setup --nodedir)
if ! (cd "$work/source" &&
  CC=aarch64-linux-gnu-gcc CXX=aarch64-linux-gnu-g++ AR=aarch64-linux-gnu-ar LINK=aarch64-linux-gnu-g++ \
  CPPFLAGS="-I$work/sysroot/usr/include -I$work/sysroot/usr/include/aarch64-linux-gnu" LDFLAGS="-L$libraries" \
  npm_config_nodedir=$nodedir \
    sh -ec 'node-gyp configure --release --arch=arm64; make -C build BUILDTYPE=Release --jobs "$(nproc)" ipnc gate native_test' \
    ) >"$log" 2>&1; then
  grep -v '^gyp info' "$log" | tail -n 60 >&2
  exit 1
fi

release=$work/source/build/Release
for file in gate native_test ipnc.node; do
  aarch64-linux-gnu-readelf --file-header "$release/$file" | grep -q 'Machine: *AArch64' ||
    { echo "arm64: $file is for another machine" >&2; exit 1; }
done

qemu() { qemu-aarch64-static -L /usr/aarch64-linux-gnu -E LD_LIBRARY_PATH="$libraries:/usr/aarch64-linux-gnu/lib" "$@"; }
qemu "$release/gate" --help | grep -q '^pod-network-gate: ' || { echo 'arm64: the gate does not start' >&2; exit 1; }
echo "ok   the gate starts"
# Those that make no system call beyond memory and files: qemu has neither netfilter nor network namespaces.
qemu "$release/native_test" 'encode:' 'decode:' 'replay:' 'gate, options:' 'gate, annotations:' 'gate, marks:' \
  'nftables: a rule of every kind' 'nftables: whatever rule is valid' 'nftables: intervals of a set' \
  'nftables: what we would not write' 'nftables: a rule that makes no sense' 'nftables: tables that make no sense' \
  'nftables: a dump that is cut short'

#!/bin/sh
# Installs the Debian packages that cbtm is built, tested and demonstrated with. Prints what it installs, does nothing
# when nothing is missing, and says what to do when it may not. With --fuzz: what `make fuzz` needs, too.
set -eu

packages="g++ make cmake ccache git ca-certificates python3 file
  libfmt-dev nlohmann-json3-dev libcxxopts-dev doctest-dev
  libxxhash-dev zlib1g-dev libzstd-dev libhwy-dev libevent-dev libpcre2-dev"
case "${1:-}" in
  "") ;;
  --fuzz) packages="$packages clang libclang-rt-dev libomp-dev" ;;
  *) echo "install-deps: unknown option $1; there is --fuzz" >&2; exit 2 ;;
esac

missing=""
for package in $packages; do
  state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$state" = installed ] || missing="$missing $package"
done
[ -z "$missing" ] && exit 0

if ! command -v apt-get >/dev/null 2>&1; then
  echo "install-deps: this is not Debian (no apt-get); install what these packages hold, by your own means:$missing" >&2
  exit 1
fi
as_root=""
if [ "$(id -u)" != 0 ]; then
  if command -v sudo >/dev/null 2>&1; then
    as_root="sudo"
  else
    echo "install-deps: missing packages, and neither root nor sudo here; ask someone who may to run" >&2
    echo "  apt-get install --no-install-recommends$missing" >&2
    exit 1
  fi
fi
echo "install-deps: installing$missing" >&2
apt="$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# shellcheck disable=SC2086  # lists of words
if ! { $apt update && $apt install -y --no-install-recommends $missing; } >"$log" 2>&1; then
  tail -n 15 "$log" >&2
  echo "install-deps: apt-get failed (above); is the package registry reachable? By hand: apt-get update && apt-get install$missing" >&2
  exit 1
fi

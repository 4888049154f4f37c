#!/usr/bin/env bash
# Runs every test, on the CPU and on every Vulkan driver that can be had here.
#
#   bash tests/run.sh [--no-gpu] [ARGS...]
#
# --no-gpu installs no driver and does not fail when no adapter is found. ARGS go to every test binary: a part of a
# test's name, --list, --nocapture ... The tests of the page in a browser run without ARGS, or alone with: page
# On Debian and Ubuntu, as root or with passwordless sudo, missing drivers and tools are installed first. The last line
# is the sum over all tests: N passed, N failed, N skipped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

gpu=1
if [[ ${1:-} == --no-gpu ]]; then
  gpu=0
  shift
fi

log=$(mktemp)
bin=$(mktemp -d)
trap 'rm -rf "$log" "$bin"' EXIT
skipped=0
swiftshader=/usr/lib/chromium/vk_swiftshader_icd.json

say() { printf '\n== %s\n' "$*"; }
skip() {
  skipped=$((skipped + 1))
  printf '\n!! SKIPPED: %s\n' "$*"
}
as_root() { if [[ $EUID == 0 ]]; then "$@"; else sudo -n "$@"; fi; }
can_install() { command -v apt-get >/dev/null && as_root true 2>/dev/null; }

install() {
  can_install || return 1
  say "installing $*"
  [[ ${index_read:=0} == 1 ]] || as_root apt-get -qq update && index_read=1
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >/dev/null
}

has() { compgen -G "$1" >/dev/null || command -v "$1" >/dev/null; }

# need WHAT FILE_OR_COMMAND PACKAGE...: makes it be there, or says what is missing.
need() {
  local what=$1 file=$2
  shift 2
  has "$file" && return
  { install "$@" && has "$file"; } || printf '\n!! MISSING: %s. On Debian: apt-get install %s\n' "$what" "$*"
}

# Debian unstable's Mesa, whose llvmpipe has cooperative matrices, beside the system: its own C library and loader run
# the test binary, so nothing is installed and no chroot is needed.
mesa=${XDG_CACHE_HOME:-$HOME/.cache}/diffattn/mesa-unstable
get_mesa() {
  [[ -x $mesa/usr/bin/spirv-val ]] && return
  need 'mmdebstrap (unpacks a newer Mesa)' mmdebstrap mmdebstrap debian-archive-keyring
  { has mmdebstrap && can_install; } || return 1
  say "unpacking Debian unstable's Mesa into $mesa"
  mkdir -p "${mesa%/*}"
  as_root rm -rf "$mesa" "$mesa.part"
  # A mirror's index may be past its date; its signature is checked all the same.
  as_root mmdebstrap --quiet --variant=extract --aptopt='Acquire::Check-Valid-Until "false"' \
    --include=mesa-vulkan-drivers,libvulkan1,spirv-tools sid "$mesa.part" || return 1
  mv "$mesa.part" "$mesa"
}

[[ $gpu == 0 ]] || export DIFFATTN_REQUIRE_GPU=1
if [[ $gpu == 1 && $(uname) == Linux ]]; then
  need 'llvmpipe (a software Vulkan driver)' '/usr/share/vulkan/icd.d/lvp_icd*.json' mesa-vulkan-drivers libvulkan1
  need 'SwiftShader (another one, inside Chromium)' "$swiftshader" chromium
  if get_mesa; then
    lib=$(dirname "$mesa"/usr/lib/*/libvulkan.so.1)
    loader=$(compgen -G "$lib/ld-linux*.so.*")
    # Knows cooperative matrices, as older ones do not.
    printf '#!/bin/sh\nexec "%s" --library-path "%s" "%s" "$@"\n' "$loader" "$lib" "$mesa/usr/bin/spirv-val" \
      >"$bin/spirv-val"
    chmod +x "$bin/spirv-val"
    PATH=$bin:$PATH
  fi
  need 'spirv-val (checks the generated SPIR-V)' spirv-val spirv-tools
  # Beside the drivers that the Vulkan loader finds by itself, a real GPU's among them.
  ! has "$swiftshader" || export VK_ADD_DRIVER_FILES=$swiftshader
fi

status=0
say 'cargo test'
cargo test --release --no-fail-fast --package diffattn --package diffattn-web -- "$@" | tee "$log" || status=1

if [[ -n ${loader:-} ]]; then
  say 'GPU tests on a driver with cooperative matrices'
  matrix=("${@:-matrix}") # those tests alone, unless others are asked for
  VK_DRIVER_FILES=$(compgen -G "$mesa/usr/share/vulkan/icd.d/lvp_icd*.json") cargo test --release --test gpu \
    --config "target.'cfg(all())'.runner = ['$loader', '--library-path', '$lib']" -- "${matrix[@]}" | tee -a "$log" || status=1
elif [[ $gpu == 1 ]]; then
  skip "all tests with cooperative matrices: their driver comes from Debian unstable, with apt-get, root and a network"
fi

# The page needs the wasm32 target, node and a browser. Its files are built first; without ARGS only, since a test's name
# says nothing about them.
if [[ $gpu == 1 && ($# == 0 || $* == page) ]]; then
  need 'node and npm (drive the browser)' npm nodejs npm
  need 'Chromium' chromium chromium
  built=0
  bash web/build.sh || built=$?
  if [[ $built == 3 ]]; then
    skip 'the page in a browser: there is no compiler for wasm32'
  elif [[ $built != 0 ]]; then
    status=1
  elif ! has npm || ! has chromium; then
    skip 'the page in a browser: npm or chromium is missing'
  elif ! npm ci --prefix tests/web --no-audit --no-fund; then
    skip 'the page in a browser: npm cannot bring what drives it'
  else
    say 'the page, in a browser'
    node --test --test-reporter=tap tests/web/ | tee -a "$log" || status=1
  fi
fi

# A binary that died printed no sum: then the exit status tells.
# Cargo's sums, and node's: `# pass N`.
sum() {
  sed -nE "s/^test result:.* ([0-9]+) $1;.*/\1/p; s/^# $2 ([0-9]+)$/\1/p" "$log" |
    awk '{ n += $1 } END { print n + 0 }'
}
failed=$(sum failed fail)
[[ $status == 1 && $failed == 0 ]] && failed=1
grep -E '^(test .* FAILED|not ok .*)$' "$log" || true
say "$([[ $status == 0 ]] && echo 'every test that ran passed' || echo 'FAILED')"
echo "$(sum passed pass) passed, $failed failed, $((skipped + $(sum ignored skipped))) skipped"
exit "$status"

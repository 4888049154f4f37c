#!/usr/bin/env bash
# Packs what a machine with a GPU driver and no Rust needs to measure it: one stripped binary and one script.
#
#   bash benches/kit/pack.sh [DIR]
#
# leaves diffattn-kit.tar.gz in DIR (by default the current directory). There: tar xf diffattn-kit.tar.gz, then
# bash diffattn-kit/run.sh.
# The binary wants the C library of this machine or a newer one, and the Vulkan loader (libvulkan.so.1) beside the driver.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
to=$(cd "${1:-.}" && pwd)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
kit=$work/diffattn-kit
mkdir "$kit"

cd "$here"
DIFFATTN_COMMIT=$(git describe --always --dirty --exclude '*' 2>/dev/null || true)
DIFFATTN_RUSTC=$(rustc --version)
export DIFFATTN_COMMIT DIFFATTN_RUSTC
cargo build --release --bin diffattn
binary=${CARGO_TARGET_DIR:-target}/release/diffattn
cp "$binary" "$kit/diffattn"
strip "$kit/diffattn" 2>/dev/null || true
cp benches/kit/run.sh benches/record/NOTES.md "$kit/"
[[ ! -f benches/compare_torch.py ]] || cp benches/compare_torch.py "$kit/"

tar -C "$work" -czf "$work/diffattn-kit.tar.gz" diffattn-kit
mv "$work/diffattn-kit.tar.gz" "$to/diffattn-kit.tar.gz"
echo "$to/diffattn-kit.tar.gz"

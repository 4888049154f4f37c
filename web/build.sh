#!/usr/bin/env bash
# Builds the page: afterwards the folder web/page can be served by any static host.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source web/wasm.sh

wasm_setup
wasm_cargo build --profile web --package diffattn-web
# Of the same version as the crate, since both are in Cargo.lock.
cargo run --quiet --package diffattn-web-bindgen -- "$wasm_dir/$wasm_target/web/diffattn_web.wasm" web/page/pkg
wasm=web/page/pkg/diffattn_bg.wasm
if command -v wasm-opt >/dev/null; then
  wasm-opt -Os --all-features -o "$wasm.small" "$wasm" && mv "$wasm.small" "$wasm"
fi
printf 'web/page: %d kB of wasm, %d kB compressed\n' $(($(wc -c <"$wasm") / 1000)) $(($(gzip -9c "$wasm" | wc -c) / 1000))

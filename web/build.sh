#!/usr/bin/env bash
# Builds the page: afterwards the folder web/page can be served by any static host. Exits with 3 when no compiler for the
# browser can be had.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source web/wasm.sh

wasm_setup || exit 3
wasm_cargo build --profile web --package diffattn-web
# Of the same version as the crate, since both are in Cargo.lock.
cargo run --quiet --package diffattn-web-bindgen -- "$wasm_dir/$wasm_target/web/diffattn_web.wasm" web/page/pkg
wasm=web/page/pkg/diffattn_bg.wasm
printf 'web/page: %d kB of wasm, %d kB compressed\n' $(($(wc -c <"$wasm") / 1000)) $(($(gzip -9c "$wasm" | wc -c) / 1000))

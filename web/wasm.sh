# Sourced by web/build.sh and .ci/wasm: a cargo that builds for the browser. Where rustup cannot bring the target,
# Debian's toolchain builds its standard library from source.

wasm_target=wasm32-unknown-unknown
wasm_dir=target
# The target comes before what the caller may end with: `-- -D warnings`.
wasm_cargo() {
  local command=$1
  shift
  cargo "$command" --target "$wasm_target" "$@"
}

# Another compiler gets a directory of its own; -Zbuild-std on a stable one needs RUSTC_BOOTSTRAP.
debian_cargo() {
  local command=$1
  shift
  PATH=/usr/bin:$PATH RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 \
    CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=/usr/bin/wasm-ld-19 \
    /usr/bin/cargo "$command" --target "$wasm_target" --target-dir "$wasm_dir" -Zbuild-std=std,panic_abort "$@"
}

wasm_setup() {
  if command -v rustup >/dev/null && timeout 120 rustup target add "$wasm_target"; then
    return
  fi
  echo 'rustup cannot add the target; using the toolchain of the distribution'
  wasm_dir=target/wasm
  wasm_cargo() { debian_cargo "$@"; }
  if [[ -x /usr/bin/wasm-ld-19 && -d /usr/share/cargo && $(/usr/bin/rustc --print target-list 2>/dev/null) ]]; then
    return
  fi
  command -v apt-get >/dev/null || { echo "error: no wasm32 target; install it with: rustup target add $wasm_target" >&2; return 1; }
  local sudo=()
  [[ $EUID == 0 ]] || sudo=(sudo -n)
  "${sudo[@]}" apt-get -qq update
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
    rustc-web cargo-web rust-web-src rust-web-clippy lld-19 >/dev/null
}

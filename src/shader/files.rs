//! The WGSL files that kernels are joined from.

macro_rules! wgsl {
    ($($file:literal),* $(,)?) => { &[$(($file, include_str!(concat!("../../shaders/", $file)))),*] };
}

/// Every WGSL file, by its path below `shaders/`.
const FILES: &[(&str, &str)] = wgsl![
    "view.wgsl",
    "params.wgsl",
    "online_softmax.wgsl",
    "rows4.wgsl",
    "query_row.wgsl",
    "forward.wgsl",
    "forward_naive.wgsl",
    "forward_matrix.wgsl",
    "backward_rows.wgsl",
    "backward_dq.wgsl",
    "backward_dkv.wgsl",
    "backward_mean.wgsl",
    "backward_dq_naive.wgsl",
    "backward_dkv_naive.wgsl",
    "backward_mean_naive.wgsl",
    "backward/inputs.wgsl",
    "backward/key_tiles.wgsl",
    "backward/no_a2.wgsl",
    "backward/saved_a2.wgsl",
    "backward/terms.wgsl",
    "backward/write_dkv.wgsl",
    "backward/write_dq.wgsl",
    "backward/write_mean.wgsl",
    "elem/f32.wgsl",
    "elem/f16.wgsl",
    "elem/bf16.wgsl",
    "elem/unpack_f16_builtin.wgsl",
    "elem/unpack_f16_bits.wgsl",
    "mask/none.wgsl",
    "mask/causal.wgsl",
    "mask/window.wgsl",
    "sequence/even.wgsl",
    "sequence/packed.wgsl",
    "score/scaled.wgsl",
    "score/softcap.wgsl",
    "output/lse.wgsl",
    "output/no_lse.wgsl",
    "output/a2.wgsl",
    "output/no_a2.wgsl",
    "exchange/workgroup.wgsl",
    "exchange/subgroup.wgsl",
    "exchange/parts_workgroup.wgsl",
    "exchange/parts_subgroup.wgsl",
    "cache/contiguous.wgsl",
    "cache/paged.wgsl",
    "cache/same.wgsl",
    "cache/int8.wgsl",
    "cache/counted.wgsl",
    "cache/uncounted.wgsl",
    "decode/params.wgsl",
    "decode/decode.wgsl",
    "decode/portable.wgsl",
    "decode/subgroup.wgsl",
    "decode/whole.wgsl",
    "decode/partial.wgsl",
    "decode/partials.wgsl",
    "decode/merge.wgsl",
    "decode/append.wgsl",
    "decode/append_same.wgsl",
    "decode/append_int8.wgsl",
];

pub(super) fn file(name: &str) -> &'static str {
    let found = FILES.iter().find(|(path, _)| *path == name);
    found.map(|(_, text)| *text).unwrap_or_else(|| unreachable!("{name} is not in FILES"))
}

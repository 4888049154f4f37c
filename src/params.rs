//! The Rust side of `shaders/params.wgsl` and `shaders/decode/params.wgsl`; a test compares both by reflection.

use bytemuck::{Pod, Zeroable};

/// `View` of view.wgsl: where a tensor's rows lie, in units of one array element of its binding.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
pub(crate) struct View {
    pub base: u32,
    pub batch: u32,
    pub seq: u32,
    pub head: u32,
}

/// `Params` of params.wgsl.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Pod, Zeroable)]
pub(crate) struct Params {
    pub q: View,
    pub k: View,
    pub v: View,
    pub lam: View,
    pub out: View,
    pub lse: View,
    pub a2: View,
    pub dout: View,
    pub dlse: View,
    pub dq: View,
    pub dk: View,
    pub dv: View,
    pub dlam: View,
    pub terms: View,
    pub batch: u32,
    pub kv_heads: u32,
    pub head_tiles: u32,
    pub q_tiles: u32,
    pub tiles: u32,
    pub grid_width: u32,
    pub group: u32,
    pub q_len: u32,
    pub kv_len: u32,
    pub diagonal: i32,
    pub left: i32,
    pub right: i32,
    pub scale: f32,
    pub softcap: f32,
    pub accumulate: u32,
    pub has_dlse: u32,
}

/// `Sequence` of params.wgsl, an element of the `sequences` binding.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
pub(crate) struct PackedSequence {
    pub q_start: u32,
    pub q_len: u32,
    pub kv_start: u32,
    pub kv_len: u32,
    pub diagonal: i32,
}

/// `Params` of decode/params.wgsl.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Pod, Zeroable)]
pub(crate) struct CacheParams {
    pub q: View,
    pub lam: View,
    pub out: View,
    pub lse: View,
    pub new_k: View,
    pub new_v: View,
    pub batch: u32,
    pub q_len: u32,
    pub kv_heads: u32,
    pub group: u32,
    pub row_tiles: u32,
    pub splits: u32,
    pub workgroups: u32,
    pub grid_width: u32,
    pub places: u32,
    pub pages: u32,
    pub table: u32,
    pub first_unit: u32,
    pub end_unit: u32,
    pub left: i32,
    pub right: i32,
    pub scale: f32,
    pub softcap: f32,
}

/// `Params` of matmul/params.wgsl.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
pub(crate) struct MatmulParams {
    pub rows: u32,
    pub columns: u32,
    pub column_quads: u32,
    pub depth: u32,
    pub a_base: u32,
    pub a_stride: u32,
    pub b_base: u32,
    pub b_stride: u32,
    pub c_base: u32,
    pub c_stride: u32,
    pub column_tiles: u32,
    pub tiles: u32,
    pub grid_width: u32,
    pub add: u32,
    pub head_quads: u32,
    pub head_stride: u32,
}

/// `Params` of layer/params.wgsl.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Pod, Zeroable)]
pub(crate) struct LayerParams {
    pub work: u32,
    pub grid_width: u32,
    pub rows: u32,
    pub quads: u32,
    pub head_quads: u32,
    pub factor: f32,
    pub epsilon: f32,
    pub lambda_init: f32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    const VIEW: &str = include_str!("../shaders/view.wgsl");
    const TENSORS: &str = include_str!("../shaders/params.wgsl");
    const LAYER: &str = include_str!("../shaders/layer/params.wgsl");
    const MATMUL: &str = include_str!("../shaders/matmul/params.wgsl");
    const CACHE: &str = include_str!("../shaders/decode/params.wgsl");

    /// Offsets of a struct's members in a file, and its size.
    fn reflect(file: &str, name: &str) -> (Vec<(String, usize)>, usize) {
        let text = format!("const HEAD_DIM = 8u; const VALUE_DIM = 8u;\n{VIEW}\n{file}");
        let module = naga::front::wgsl::parse_str(&text).expect("the file parses");
        let found = module.types.iter().find(|(_, kind)| kind.name.as_deref() == Some(name)).expect(name).1;
        let naga::TypeInner::Struct { members, span } = &found.inner else { panic!("{name} is no struct") };
        let name = |member: &naga::StructMember| member.name.clone().unwrap_or_default();
        (members.iter().map(|member| (name(member), member.offset as usize)).collect(), *span as usize)
    }

    macro_rules! compare {
        ($file:expr, $type:ty, $name:literal, $($field:ident),*) => {{
            let (members, size) = reflect($file, $name);
            let ours = [$((stringify!($field).to_string(), offset_of!($type, $field))),*];
            assert_eq!(members, ours, $name);
            assert_eq!(size, size_of::<$type>(), $name);
        }};
    }

    #[test]
    fn the_shader_sees_what_the_host_writes() {
        compare!(TENSORS, View, "View", base, batch, seq, head);
        compare!(TENSORS, PackedSequence, "Sequence", q_start, q_len, kv_start, kv_len, diagonal);
        compare!(
            TENSORS, Params, "Params", q, k, v, lam, out, lse, a2, dout, dlse, dq, dk, dv, dlam, terms, batch,
            kv_heads, head_tiles, q_tiles, tiles, grid_width, group, q_len, kv_len, diagonal, left, right, scale,
            softcap, accumulate, has_dlse
        );
        compare!(
            CACHE,
            CacheParams,
            "Params",
            q,
            lam,
            out,
            lse,
            new_k,
            new_v,
            batch,
            q_len,
            kv_heads,
            group,
            row_tiles,
            splits,
            workgroups,
            grid_width,
            places,
            pages,
            table,
            first_unit,
            end_unit,
            left,
            right,
            scale,
            softcap
        );
        compare!(
            MATMUL,
            MatmulParams,
            "Params",
            rows,
            columns,
            column_quads,
            depth,
            a_base,
            a_stride,
            b_base,
            b_stride,
            c_base,
            c_stride,
            column_tiles,
            tiles,
            grid_width,
            add,
            head_quads,
            head_stride
        );
        compare!(LAYER, LayerParams, "Params", work, grid_width, rows, quads, head_quads, factor, epsilon, lambda_init);
    }
}

//! The Rust side of `shaders/params.wgsl`; a test compares both by reflection.

use bytemuck::{Pod, Zeroable};

/// `View` of params.wgsl: where a tensor's rows lie, in units of one array element of its binding.
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    /// Offsets of a struct's members in params.wgsl, and its size.
    fn reflect(name: &str) -> (Vec<(String, usize)>, usize) {
        let module = naga::front::wgsl::parse_str(include_str!("../shaders/params.wgsl")).expect("params.wgsl parses");
        let found = module.types.iter().find(|(_, kind)| kind.name.as_deref() == Some(name)).expect(name).1;
        let naga::TypeInner::Struct { members, span } = &found.inner else { panic!("{name} is no struct") };
        let name = |member: &naga::StructMember| member.name.clone().unwrap_or_default();
        (members.iter().map(|member| (name(member), member.offset as usize)).collect(), *span as usize)
    }

    macro_rules! compare {
        ($type:ty, $name:literal, $($field:ident),*) => {{
            let (members, size) = reflect($name);
            let ours = [$((stringify!($field).to_string(), offset_of!($type, $field))),*];
            assert_eq!(members, ours, $name);
            assert_eq!(size, size_of::<$type>(), $name);
        }};
    }

    #[test]
    fn the_shader_sees_what_the_host_writes() {
        compare!(View, "View", base, batch, seq, head);
        compare!(PackedSequence, "Sequence", q_start, q_len, kv_start, kv_len, diagonal);
        compare!(
            Params, "Params", q, k, v, lam, out, lse, a2, dout, dlse, dq, dk, dv, dlam, terms, batch, kv_heads,
            head_tiles, q_tiles, tiles, grid_width, group, q_len, kv_len, diagonal, left, right, scale, softcap,
            accumulate, has_dlse
        );
    }
}

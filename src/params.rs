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
    pub padding: [u32; 2],
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
    pub padding: [u32; 3],
}

// The keys are split over workgroups: each leaves its state for merge.wgsl.
// [sequence][KV head][split][row]: 2 · VALUE_OCTETS vec4 of unnormalised output, then (maximum, sum).
@group(0) @binding(12) var<storage, read_write> partials: array<vec4<f32>>;

// `row` is that of member 1.
fn write_pair(at: Place, row: u32, octet: u32, o1: F32x8, o2: F32x8, row_max: vec2<f32>, row_sum: vec2<f32>) {
    let first = partial_row(at.b, at.kv_head, at.split, row);
    let second = first + PARTIAL_STRIDE;
    partials[first + 2u * octet] = o1.lo;
    partials[first + 2u * octet + 1u] = o1.hi;
    partials[second + 2u * octet] = o2.lo;
    partials[second + 2u * octet + 1u] = o2.hi;
    if (octet == 0u) {
        partials[first + 2u * VALUE_OCTETS] = vec4<f32>(row_max.x, row_sum.x, 0.0, 0.0);
        partials[second + 2u * VALUE_OCTETS] = vec4<f32>(row_max.y, row_sum.y, 0.0, 0.0);
    }
}

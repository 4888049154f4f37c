@group(0) @binding(21) var<storage, read_write> terms: array<Terms>;
@group(0) @binding(26) var<storage, read_write> dlam: array<f32>;

// Adds c₂ to the terms of a row, and writes its dλ.
fn write_mean(row: u32, dlam_index: u32, c2: f32) {
    let t = terms[row];
    terms[row].offset = t.offset + vec2<f32>(t.gate * c2, -t.gate * c2);
    var sum = -t.gate_slope * c2;
    if (params.accumulate != 0u) {
        sum += dlam[dlam_index];
    }
    dlam[dlam_index] = sum;
}

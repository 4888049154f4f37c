// The subtracted member a2 is wanted, for the backward pass.
@group(0) @binding(7) var<storage, read_write> a2: array<Elem4>;

fn write_a2(row: u32, quad: u32, x: vec4<f32>) {
    a2[row + quad] = pack4(x);
}

// B has the storage type.
@group(0) @binding(2) var<storage, read> b: array<Elem4>;

fn load_b(i: u32) -> vec4<f32> {
    return unpack4(b[i]);
}

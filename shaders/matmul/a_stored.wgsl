// A has the storage type.
@group(0) @binding(1) var<storage, read> a: array<Elem4>;

fn load_a(i: u32) -> vec4<f32> {
    return unpack4(a[i]);
}

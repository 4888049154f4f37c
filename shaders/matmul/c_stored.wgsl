// C has the storage type.
@group(0) @binding(3) var<storage, read_write> c: array<Elem4>;

fn store_c(i: u32, x: vec4<f32>) {
    var sum = x;
    if (params.add != 0u) {
        sum += unpack4(c[i]);
    }
    c[i] = pack4(sum);
}

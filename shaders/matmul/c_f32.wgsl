// C is f32, whatever the storage type: λ, and gradients that are summed over several products.
@group(0) @binding(3) var<storage, read_write> c: array<vec4<f32>>;

fn store_c(i: u32, x: vec4<f32>) {
    var sum = x;
    if (params.add != 0u) {
        sum += c[i];
    }
    c[i] = sum;
}

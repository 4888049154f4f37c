// Every load of eight elements of K or V is counted: the proof that each is loaded once. [index].x for K, .y for V
@group(0) @binding(9) var<storage, read_write> loads: array<array<atomic<u32>, 2>>;

fn count_k(index: u32) {
    atomicAdd(&loads[index][0], 1u);
}

fn count_v(index: u32) {
    atomicAdd(&loads[index][1], 1u);
}

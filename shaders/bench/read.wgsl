// Reads every element of a buffer once: what the memory delivers at best.
//
// A workgroup owns one contiguous range, which its invocations read side by side, 16 bytes each. Workgroup memory: none.
// Barriers: none. Numerics: none.

@group(0) @binding(0) var<storage, read> data: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> result: array<vec4<u32>, 1>;

const THREADS: u32 = 256u;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let share = arrayLength(&data) / groups.x;
    let first = group.x * share;
    var sum = vec4<u32>(0u);
    for (var i = lane; i < share; i += THREADS) {
        sum ^= data[first + i];
    }
    // As good as never so, which no compiler knows: the loads are needed.
    if (all(sum == vec4<u32>(0x2545f491u))) {
        result[0] = sum;
    }
}

// The last step of the un-fused form: out = a1 - sigmoid(lam) · a2, where standard attention left a1 and a2 as
// neighbouring heads. ROWS and VALUE_DIM come from the header.
//
// An invocation owns eight elements of one output row. Workgroup memory: none. Barriers: none. Numerics: f32 between
// loads and stores of the storage type.

@group(0) @binding(0) var<storage, read> members: array<Elem8>;
@group(0) @binding(1) var<storage, read> lam: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<Elem4>;

const OCTETS: u32 = VALUE_DIM / 8u;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = (group.y * groups.x + group.x) * 64u + lane;
    let row = index / OCTETS;
    let octet = index % OCTETS;
    if (row >= ROWS) {
        return;
    }
    let gate = 1.0 / (1.0 + exp(-lam[row]));
    let a1 = unpack8(members[2u * row * OCTETS + octet]);
    let a2 = unpack8(members[(2u * row + 1u) * OCTETS + octet]);
    out[2u * index] = pack4(a1.lo - gate * a2.lo);
    out[2u * index + 1u] = pack4(a1.hi - gate * a2.hi);
}

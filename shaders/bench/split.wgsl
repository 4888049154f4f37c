// The first step of the un-fused backward pass: gradients of both members by the subtraction,
// da1 = dout, da2 = -sigmoid(lam) · dout, and of its gate, dlam = -s · (1 - s) · dout · a2. Members are neighbouring heads.
// ROWS and VALUE_DIM come from the header.
//
// An invocation owns one output row. Workgroup memory: none. Barriers: none. Numerics: f32 between loads and stores of
// the storage type.

@group(0) @binding(0) var<storage, read> members: array<Elem8>;
@group(0) @binding(1) var<storage, read> lam: array<f32>;
@group(0) @binding(2) var<storage, read> dout: array<Elem8>;
@group(0) @binding(3) var<storage, read_write> dmembers: array<Elem4>;
@group(0) @binding(4) var<storage, read_write> dlam: array<f32>;

const OCTETS: u32 = VALUE_DIM / 8u;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = (group.y * groups.x + group.x) * 64u + lane;
    if (row >= ROWS) {
        return;
    }
    let gate = 1.0 / (1.0 + exp(-lam[row]));
    var sum = 0.0;
    for (var octet = 0u; octet < OCTETS; octet++) {
        let d = unpack8(dout[row * OCTETS + octet]);
        let a2 = unpack8(members[(2u * row + 1u) * OCTETS + octet]);
        sum += dot(d.lo, a2.lo) + dot(d.hi, a2.hi);
        let first = 2u * (2u * row * OCTETS + octet);
        let second = first + 2u * OCTETS;
        dmembers[first] = pack4(d.lo);
        dmembers[first + 1u] = pack4(d.hi);
        dmembers[second] = pack4(-gate * d.lo);
        dmembers[second + 1u] = pack4(-gate * d.hi);
    }
    dlam[row] = -gate * (1.0 - gate) * sum;
}

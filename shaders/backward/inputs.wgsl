// What every sweep of the backward pass reads.
@group(0) @binding(1) var<storage, read> q: array<Elem8>;
@group(0) @binding(2) var<storage, read> k: array<Elem8>;
@group(0) @binding(3) var<storage, read> v: array<Elem8>;
@group(0) @binding(20) var<storage, read> dout: array<Elem8>;

const HEAD_OCTETS: u32 = HEAD_DIM / 8u;
const HEAD_QUADS: u32 = HEAD_DIM / 4u;
const VALUE_OCTETS: u32 = VALUE_DIM / 8u;
const VALUE_QUADS: u32 = VALUE_DIM / 4u;

// The cache holds the type that is appended.
@group(0) @binding(2) var<storage, read_write> k: array<Elem8>;
@group(0) @binding(3) var<storage, read_write> v: array<Elem8>;

fn append_k(row: u32, source: u32) {
    for (var octet = 0u; octet < HEAD_OCTETS; octet++) {
        k[row * HEAD_OCTETS + octet] = new_k[source + octet];
    }
}

fn append_v(row: u32, source: u32) {
    for (var octet = 0u; octet < VALUE_OCTETS; octet++) {
        v[row * VALUE_OCTETS + octet] = new_v[source + octet];
    }
}

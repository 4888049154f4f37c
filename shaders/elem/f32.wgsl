// f32 storage: eight elements are read at a time, four written.
struct Elem8 {
    lo: vec4<f32>,
    hi: vec4<f32>,
}
alias Elem4 = vec4<f32>;
alias F32x8 = Elem8;

fn unpack8(e: Elem8) -> F32x8 {
    return e;
}

fn pack4(x: vec4<f32>) -> Elem4 {
    return x;
}

fn unpack4(e: Elem4) -> vec4<f32> {
    return e;
}

// How a tensor is addressed.

// Where a tensor's rows lie. A unit is what one array element of the binding holds: 8 storage elements for tensors
// that are read (q, k, v, dout; out and a2 by the backward), 4 for tensors that are written (out, a2, dq, dk, dv), 1 for
// f32 tensors (lam, lse and their gradients), and one struct for terms.
struct View {
    base: u32,   // units from the start of the binding
    batch: u32,  // units between sequences
    seq: u32,    // units between tokens
    head: u32,   // units between heads
}

fn row_of(view: View, batch: u32, token: u32, head: u32) -> u32 {
    return view.base + batch * view.batch + token * view.seq + head * view.head;
}

const LOG2_E: f32 = 1.4426950408889634;
const LN_2: f32 = 0.6931471805599453;

//! wip
use crate::*;
/// wip
pub fn backward(_p: &Problem, _i: &HostInputs, _g: &HostGradInputs) -> Result<HostGradients> {
    todo!()
}

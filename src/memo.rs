//! What was chosen for recent problems: a plan made again searches and allocates nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::attention::PlanOptions;
use crate::error::Result;
use crate::problem::{DType, Mask, Problem, Shape};

/// Problems that are remembered; one more, and all are forgotten. Whoever plans more than these knows no warm plans.
const MOST: usize = 1024;

/// Everything that the choice of a kernel depends on, on one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Asked {
    shape: Shape,
    dtype: DType,
    mask: Mask,
    softcap: bool,
    lse: bool,
    a2: bool,
    packed: bool,
    standard: bool,
    how: PlanOptions,
}

impl Asked {
    pub(crate) fn new(problem: &Problem, how: PlanOptions, standard: bool) -> Self {
        let Problem { shape, dtype, options, ref packed } = *problem;
        let (mask, softcap, packed) = (options.mask(), options.softcap.is_some(), packed.is_some());
        Asked { shape, dtype, mask, softcap, lse: options.lse, a2: options.a2, packed, standard, how }
    }
}

/// Choices by what was asked.
#[derive(Debug)]
pub(crate) struct Memo<T> {
    kept: Mutex<HashMap<Asked, Arc<T>>>,
}

impl<T> Default for Memo<T> {
    fn default() -> Self {
        Memo { kept: Mutex::default() }
    }
}

impl<T> Memo<T> {
    /// What was chosen before, or what `choose` gives now. Errors are not kept.
    pub(crate) fn get(&self, asked: Asked, choose: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
        // A panic elsewhere cannot leave a half-inserted choice behind.
        let lock = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(chosen) = lock().get(&asked) {
            return Ok(chosen.clone());
        }
        // The lock is not held while choosing: two callers may choose the same.
        let chosen = Arc::new(choose()?);
        let mut kept = lock();
        if kept.len() >= MOST {
            kept.clear();
        }
        kept.insert(asked, chosen.clone());
        Ok(chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Options;

    fn asked(q_len: u32, causal: bool) -> Asked {
        let shape = Shape { batch: 1, q_len, kv_len: 9, heads: 2, kv_heads: 1, head_dim: 8, value_dim: 8 };
        let options = Options { causal, ..Options::default() };
        Asked::new(&Problem::new(shape, DType::F32, options), PlanOptions::default(), false)
    }

    #[test]
    fn what_was_chosen_is_chosen_once() {
        let memo = Memo::default();
        assert_eq!(memo.get(asked(1, true), || Ok(1)).as_deref(), Ok(&1));
        assert_eq!(memo.get(asked(1, true), || Ok(2)).as_deref(), Ok(&1));
        assert_eq!(memo.get(asked(1, false), || Ok(3)).as_deref(), Ok(&3));
        assert!(memo.get(asked(2, true), || Err(crate::Error::invalid("x", "y", 1))).is_err());
        assert_eq!(memo.get(asked(2, true), || Ok(4)).as_deref(), Ok(&4));
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let memo = Memo::default();
        (1..=3 * MOST as u32).for_each(|q_len| assert!(memo.get(asked(q_len, true), || Ok(q_len)).is_ok()));
        assert!(memo.kept.lock().unwrap().len() <= MOST);
    }
}

//! Tasks over the threads of the current rayon pool.

use std::sync::{Mutex, PoisonError};

/// Runs every task once, those of the highest cost first; each thread keeps one scratch `S` for all it runs.
pub(super) fn run<T: Send, S: Default>(mut tasks: Vec<T>, cost: impl Fn(&T) -> usize, work: impl Fn(T, &mut S) + Sync) {
    tasks.sort_by_cached_key(|task| std::cmp::Reverse(cost(task)));
    let queue = Mutex::new(tasks.into_iter());
    rayon::broadcast(|_| {
        let mut scratch = S::default();
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        while let Some(task) = next() {
            work(task, &mut scratch);
        }
    });
}

//! One job over all cores, for work that comes seldom: its threads live as long as it does.

use std::thread;

/// Runs `work` on parts of `items`, a thread each, and returns what it gives in their order. Parts consist of whole
/// units of `unit` items; `work` is told the first unit of its part.
pub fn in_parts<T: Send, R: Send>(
    items: &mut [T],
    unit: usize,
    work: impl Fn(usize, &mut [T]) -> R + Sync,
) -> Vec<R> {
    let threads = thread::available_parallelism().map_or(1, |n| n.get());
    let units = (items.len() / unit).div_ceil(threads).max(1);
    let work = &work;
    thread::scope(|scope| {
        let parts = items.chunks_mut(units * unit).enumerate();
        let running: Vec<_> = parts.map(|(i, part)| scope.spawn(move || work(i * units, part))).collect();
        running.into_iter().map(|t| t.join().unwrap_or_else(|e| std::panic::resume_unwind(e))).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_worked_on_once_and_results_keep_their_order() {
        for len in [0, 3, 6, 300, 999] {
            let mut items = vec![0; len];
            let firsts = in_parts(&mut items, 3, |first, part| {
                assert_eq!(part.len() % 3, 0);
                part.chunks_mut(3)
                    .enumerate()
                    .for_each(|(i, unit)| unit.iter_mut().for_each(|n| *n += first + i));
                first
            });
            assert!(items.iter().enumerate().all(|(i, n)| *n == i / 3), "{len}");
            assert!(firsts.is_sorted());
        }
    }
}

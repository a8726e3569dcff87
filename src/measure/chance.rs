//! Seeded choices on the host: ties, shuffles, mixes. SplitMix64, so that a stream is the same in every build.

use crate::backend::mix;

/// A stream of seeded choices.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// The stream of `key` (made by `engine::draw_key`).
    pub fn new(key: u64) -> Self {
        Self(key)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Uniform in `0..n`, `n` at least 1 (by rejection, so exactly uniform).
    pub fn below(&mut self, n: usize) -> usize {
        let n = n as u64;
        let zone = u64::MAX - u64::MAX % n;
        loop {
            let bits = self.bits();
            if bits < zone {
                return (bits % n) as usize;
            }
        }
    }

    /// A fair coin.
    pub fn coin(&mut self) -> bool {
        self.bits() >> 63 == 1
    }

    /// Puts `items` in a random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// `k` of `items`, each subset equally likely, in their own order.
    pub fn choose<T: Clone>(&mut self, items: &[T], k: usize) -> Vec<T> {
        let mut indices: Vec<usize> = (0..items.len()).collect();
        self.shuffle(&mut indices);
        indices.truncate(k);
        indices.sort_unstable();
        indices.into_iter().map(|i| items[i].clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_uniform_and_repeatable() {
        let mut counts = [0usize; 5];
        let mut chance = Chance::new(7);
        for _ in 0..5000 {
            counts[chance.below(5)] += 1;
        }
        assert!(counts.iter().all(|&c| (900..1100).contains(&c)), "{counts:?}");
        let order = |key| {
            let mut items: Vec<u32> = (0..20).collect();
            Chance::new(key).shuffle(&mut items);
            items
        };
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
    }

    #[test]
    fn chosen_items_keep_their_order() {
        let items: Vec<u32> = (0..50).collect();
        let chosen = Chance::new(3).choose(&items, 12);
        assert_eq!(chosen.len(), 12);
        assert!(chosen.is_sorted());
        assert_eq!(Chance::new(3).choose(&items, 50), items);
    }
}

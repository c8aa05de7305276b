//! Durations counted in buckets, so that a long run costs no more memory than a short one.
//!
//! Buckets are exact below 128 ns and at most 1.6 % wide above.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Buckets per power of two, as a power of two.
const FINE: u32 = 6;
/// Values below this have a bucket each.
const EXACT: u64 = 2 << FINE;
const BUCKETS: usize = EXACT as usize + ((64 - FINE as usize - 1) << FINE);

/// A histogram that many tasks fill at once.
pub struct Latency {
    buckets: Box<[AtomicU64]>,
    count: AtomicU64,
    max: AtomicU64,
}

impl Default for Latency {
    fn default() -> Self {
        let buckets = (0..BUCKETS).map(|_| AtomicU64::new(0)).collect();
        Self { buckets, count: AtomicU64::new(0), max: AtomicU64::new(0) }
    }
}

impl Latency {
    /// Counts one duration.
    pub fn record(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket(nanos)].fetch_add(1, Relaxed);
        self.count.fetch_add(1, Relaxed);
        self.max.fetch_max(nanos, Relaxed);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    /// The longest.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max.load(Relaxed))
    }

    /// The duration that `percent` of all did not exceed (to the width of a bucket), zero when
    /// nothing was counted.
    pub fn percentile(&self, percent: f64) -> Duration {
        let wanted = (self.count() as f64 * percent / 100.0).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (index, held) in self.buckets.iter().enumerate() {
            seen += held.load(Relaxed);
            if seen >= wanted {
                return Duration::from_nanos(ceiling(index)).min(self.max());
            }
        }
        self.max()
    }
}

fn bucket(nanos: u64) -> usize {
    if nanos < EXACT {
        return nanos as usize;
    }
    let exponent = 63 - nanos.leading_zeros();
    let fine = (nanos >> (exponent - FINE)) & ((1 << FINE) - 1);
    EXACT as usize + (((exponent - FINE - 1) as usize) << FINE) + fine as usize
}

/// The largest value of a bucket.
fn ceiling(index: usize) -> u64 {
    if index < EXACT as usize {
        return index as u64;
    }
    let above = index - EXACT as usize;
    let shift = (above >> FINE) as u32 + 1;
    let fine = (above & ((1 << FINE) - 1)) as u64;
    (((1 << FINE) + fine) << shift) | ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_falls_below_the_ceiling_of_its_own_bucket_and_above_the_one_before() {
        let values =
            (0..64).flat_map(|bit| [1u64 << bit, (1 << bit) - 1, (1 << bit) + (1 << bit) / 3]);
        for value in values.chain([u64::MAX]) {
            let index = bucket(value);
            assert!(ceiling(index) >= value, "{value}");
            assert!(index == 0 || ceiling(index - 1) < value, "{value}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_right_to_the_width_of_a_bucket() {
        let latency = Latency::default();
        assert_eq!(latency.percentile(50.0), Duration::ZERO);
        for micros in 1..=1000 {
            latency.record(Duration::from_micros(micros));
        }
        for (percent, exact) in [(50.0, 500.0), (95.0, 950.0), (99.0, 990.0)] {
            let found = latency.percentile(percent).as_nanos() as f64 / 1000.0;
            assert!((found / exact - 1.0).abs() < 0.016, "{percent}: {found}");
        }
        assert_eq!(latency.percentile(100.0), Duration::from_millis(1));
        assert_eq!(latency.max(), Duration::from_millis(1));
    }
}

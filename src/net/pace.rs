//! How fast a peer is read from: so many bytes per second, averaged over ten seconds. A faster one is
//! not cut off but left unread for a while, and TCP slows it down.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// How far ahead of its rate a peer may be.
const BURST: Duration = Duration::from_secs(10);

/// A bucket in two words: the instant at which everything read so far is paid for (the generic cell
/// rate algorithm). The timer exists only while the peer is being slowed down.
#[derive(Default)]
pub(crate) struct Pace {
    paid: Option<Instant>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    /// Notes that so many bytes were read; `rate` is in bytes per second, 0 for no limit.
    pub(crate) fn spend(&mut self, bytes: usize, rate: u32) {
        if rate == 0 {
            return;
        }
        let now = Instant::now();
        let cost = Duration::from_secs_f64(bytes as f64 / f64::from(rate));
        let paid = self.paid.filter(|paid| *paid > now).unwrap_or(now) + cost;
        self.paid = Some(paid);
        if paid > now + BURST {
            self.pause = Some(Box::pin(sleep_until(paid - BURST)));
        }
    }

    /// Whether the peer may be read from now; else wakes the task when it may.
    pub(crate) fn ready(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.pause {
            None => true,
            Some(pause) => match pause.as_mut().poll(cx) {
                Poll::Pending => false,
                Poll::Ready(()) => {
                    self.pause = None;
                    true
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_and_then_the_rate_rules() {
        let mut pace = Pace::default();
        let mut cx = Context::from_waker(Waker::noop());
        pace.spend(1_000, 100);
        assert!(pace.ready(&mut cx), "ten seconds' worth at once");
        pace.spend(100, 100);
        assert!(!pace.ready(&mut cx), "a second's worth too much");
        tokio::time::advance(Duration::from_millis(900)).await;
        assert!(!pace.ready(&mut cx));
        tokio::time::advance(Duration::from_millis(200)).await;
        assert!(pace.ready(&mut cx));
    }

    #[tokio::test(start_paused = true)]
    async fn no_rate_no_pause() {
        let mut pace = Pace::default();
        pace.spend(usize::MAX, 0);
        assert!(pace.ready(&mut Context::from_waker(Waker::noop())));
    }
}

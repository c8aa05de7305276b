//! Ending many sessions at a measured pace, so that neither the server nor those whose clients come
//! back at once feel it: so many a second, at times that vary a little, with room for others in
//! between. It can be paused, resumed and aborted while it runs.
//!
//! This is only the pace: each session ends by [`Server::end`], as if it were alone, and who may end
//! whom has been decided before.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use crate::{
    Server, Session,
    end::{End, Outcome},
    random,
};

/// How many sessions a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace(NonZeroU32);

/// Ended in one go at most: a millisecond or two on one processor.
const STEP: u32 = 64;

/// Steps a second that are aimed at, if there are enough sessions for them.
const STEPS: u32 = 50;

/// What a busy server did not get to in time is made up for as far as it is not older than this.
const ARREARS: Duration = Duration::from_millis(50);

impl Pace {
    /// So many a second; none if that is 0.
    #[must_use]
    pub fn per_second(sessions: u32) -> Option<Self> {
        NonZeroU32::new(sessions).map(Self)
    }

    /// How many sessions at once.
    fn step(self) -> usize {
        usize::try_from((self.0.get() / STEPS).clamp(1, STEP)).unwrap_or(1)
    }

    /// From one step to the next.
    fn interval(self) -> Duration {
        Duration::from_secs(1) * (self.0.get() / STEPS).clamp(1, STEP) / self.0.get()
    }
}

/// Steers a paced end while it runs. Clones steer the same one.
#[derive(Clone, Debug)]
pub struct Control {
    order: Arc<watch::Sender<Order>>,
}

/// What a paced end has been told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// End no further session, and say what became of those so far. Final.
    Abort,
    /// Go on.
    Go,
    /// End no further session for now.
    Pause,
}

impl Default for Control {
    fn default() -> Self {
        Self { order: Arc::new(watch::Sender::new(Order::Go)) }
    }
}

impl Control {
    /// Ends no further session until it is resumed. False: it was aborted.
    pub fn pause(&self) -> bool {
        self.tell(Order::Pause)
    }

    /// Goes on. False: it was aborted.
    pub fn resume(&self) -> bool {
        self.tell(Order::Go)
    }

    /// Ends no further session, for good.
    pub fn abort(&self) {
        self.tell(Order::Abort);
    }

    /// The order in force.
    #[must_use]
    pub fn order(&self) -> Order {
        *self.order.borrow()
    }

    fn tell(&self, order: Order) -> bool {
        self.order.send_if_modified(|now| {
            let changes = *now != Order::Abort && *now != order;
            if changes {
                *now = order;
            }
            changes
        });
        self.order() != Order::Abort || order == Order::Abort
    }

    /// Waits until the next step may be taken, `at` this time or after a pause. `None`: aborted.
    async fn next(&self, at: Instant) -> Option<Instant> {
        let mut orders = self.order.subscribe();
        let mut paused = false;
        loop {
            let order = *orders.borrow_and_update();
            match order {
                Order::Abort => return None,
                Order::Pause => {
                    paused = true;
                    // Never fails: the sender is ours.
                    let _ = orders.changed().await;
                }
                // Time that was spent paused is not made up for.
                Order::Go if paused => return Some(at.max(Instant::now())),
                Order::Go if at <= Instant::now() => {
                    tokio::task::yield_now().await;
                    return Some(at);
                }
                Order::Go => {
                    tokio::select! {
                        () = tokio::time::sleep_until(at) => return Some(at),
                        _ = orders.changed() => {}
                    }
                }
            }
        }
    }
}

/// How far a paced end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Sessions in all.
    pub total: usize,
    /// Those that are over so far, whoever ended them.
    pub done: usize,
    /// Those of them that were ended by this.
    pub ended: usize,
}

/// What became of one session of a paced end.
#[derive(Clone, Debug)]
pub struct Fate {
    /// Which.
    pub session: Arc<Session>,
    /// What became of it. `None`: its turn had not come when it was aborted; it goes on.
    pub outcome: Option<Outcome>,
}

impl Server {
    /// Ends these sessions one after the other, at this pace, and says what became of each once
    /// their connections are gone or had as long for it as after any end. `progress` is called after
    /// each step, with no lock held.
    ///
    /// Dropped before its end, it has ended those whose turn had come; whoever must not depend on the
    /// caller staying runs it as a task of its own.
    pub async fn end_paced(
        self: &Arc<Self>,
        sessions: Vec<Arc<Session>>,
        end: &End,
        pace: Pace,
        control: &Control,
        mut progress: impl FnMut(Progress),
    ) -> Vec<Fate> {
        let total = sessions.len();
        let mut ours: Vec<bool> = Vec::with_capacity(total);
        let mut ended = 0;
        let mut slot = Instant::now();
        while ours.len() < total {
            // Anywhere in its slot: the pace is kept, and no two clients learn to keep in step.
            let at = slot + pace.interval().mul_f64(fraction());
            let Some(at) = control.next(at).await else { break };
            for session in sessions[ours.len()..].iter().take(pace.step()) {
                let by_this = self.end(session, end.clone());
                ended += usize::from(by_this);
                ours.push(by_this);
            }
            progress(Progress { total, done: ours.len(), ended });
            let earliest = Instant::now().checked_sub(ARREARS).unwrap_or(slot);
            // A pause has moved the slot as well.
            slot = (slot + pace.interval()).max(at.min(Instant::now())).max(earliest);
        }
        self.all_settled(&sessions[..ours.len()]).await;
        let fates = sessions.into_iter().enumerate().map(|(index, session)| {
            let outcome = ours.get(index).map(|ours| Outcome::of(session.settled(), *ours));
            Fate { session, outcome }
        });
        fates.collect()
    }
}

/// A random fraction, 0 to 1.
fn fraction() -> f64 {
    f64::from(u16::from_be_bytes(random::bytes())) / 65_536.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_small_and_keep_the_pace() {
        assert_eq!(Pace::per_second(0), None);
        for rate in [1, 3, 50, 99, 1_000, 20_000, 1_000_000] {
            let pace = Pace::per_second(rate).expect("is not 0");
            let (step, interval) = (pace.step() as f64, pace.interval().as_secs_f64());
            assert!((1.0..=f64::from(STEP)).contains(&step), "{rate}: {step}");
            assert!((step / interval / f64::from(rate) - 1.0).abs() < 0.001, "{rate}: {interval}");
        }
    }

    #[tokio::test]
    async fn an_abort_is_final() {
        let control = Control::default();
        assert_eq!(control.order(), Order::Go);
        assert!(control.pause() && control.pause() && control.resume() && control.pause());
        let other = control.clone();
        other.abort();
        assert!(!control.resume() && !control.pause());
        assert_eq!(control.order(), Order::Abort);
        assert_eq!(control.next(Instant::now()).await, None);
    }
}

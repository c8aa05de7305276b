//! How soon a peer is noticed that is gone without a word: a phone out of reach, a machine without
//! power. The kernel does the work: it drops a connection whose bytes nobody acknowledges
//! (`TCP_USER_TIMEOUT`, RFC 5482), and asks an idle one whether its peer is there (RFC 9293 section
//! 3.8.4). No timer of ours, no byte on the stream.

use std::{io, time::Duration};

use server::config::Sessions;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// The longest that Linux takes for idle time and interval, in seconds.
const LONGEST: u64 = 32_767;
/// How long unanswered questions go on if nothing says when a peer counts as dead, in seconds.
const USUAL: u64 = 60;
/// Questions in that time.
const QUESTIONS: u64 = 4;

/// The socket options of a listener's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keepalive {
    /// How long bytes may stay unacknowledged; none: as long as the kernel likes.
    dead_after: Option<Duration>,
    asks: Option<Asks>,
}

/// When an idle peer is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asks {
    idle: Duration,
    interval: Duration,
    /// Unanswered ones that are enough. Linux counts them only without `dead_after`.
    retries: u32,
}

impl Keepalive {
    /// As configured. An idle peer that is gone is noticed within both times together.
    pub(crate) fn new(sessions: &Sessions) -> Self {
        let bounded = |seconds: u64| seconds.min(LONGEST);
        let dead_after = sessions.dead_after.get().map(bounded);
        let asks = sessions.keepalive.get().map(bounded).map(|idle| {
            // With a bound on unacknowledged bytes, Linux drops a connection at the first look at it
            // that comes after that bound, counted from the last sign of life, and after a question:
            // where the bound is the shorter time, one question has all of it for its answer. Else
            // the questions are spread over what is left of it, rounded up by less than `idle`.
            let (total, questions) = match dead_after {
                Some(dead_after) if dead_after <= idle => (dead_after, 1),
                Some(dead_after) => (dead_after - idle, QUESTIONS.min(idle + 1)),
                None => (USUAL, QUESTIONS),
            };
            Asks {
                idle: Duration::from_secs(idle),
                interval: Duration::from_secs(total.div_ceil(questions)),
                retries: u32::try_from(questions).unwrap_or(1),
            }
        });
        Self { dead_after: dead_after.map(Duration::from_secs), asks }
    }

    /// Sets the options, and that small stanzas leave at once.
    pub(crate) fn tune(&self, tcp: &TcpStream) -> io::Result<()> {
        tcp.set_nodelay(true)?;
        let socket = SockRef::from(tcp);
        if let Some(asks) = self.asks {
            let keepalive = TcpKeepalive::new()
                .with_time(asks.idle)
                .with_interval(asks.interval)
                .with_retries(asks.retries);
            socket.set_tcp_keepalive(&keepalive)?;
        }
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(self.dead_after)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use server::config::Span;
    use tokio::net::TcpListener;

    use super::*;

    fn keepalive(idle: Span, dead_after: Span) -> Keepalive {
        Keepalive::new(&Sessions { keepalive: idle, dead_after, ..Sessions::default() })
    }

    fn asks(idle: u64, interval: u64, retries: u32) -> Option<Asks> {
        let (idle, interval) = (Duration::from_secs(idle), Duration::from_secs(interval));
        Some(Asks { idle, interval, retries })
    }

    /// When Linux drops an idle connection whose peer is gone (`tcp_keepalive_timer`).
    fn noticed(keepalive: &Keepalive) -> Duration {
        let asks = keepalive.asks.expect("asks");
        let (mut now, mut asked) = (asks.idle, 0);
        loop {
            let enough = match keepalive.dead_after {
                Some(bound) => now >= bound && asked > 0,
                None => asked >= asks.retries,
            };
            if enough {
                return now;
            }
            asked += 1;
            now += asks.interval;
        }
    }

    #[test]
    fn an_idle_peer_that_is_gone_is_noticed_within_both_times() {
        let times = [1, 2, 5, 20, 60, 119, 120, 121, 3_600, LONGEST];
        for idle in times {
            for dead_after in times {
                let found =
                    noticed(&keepalive(Span::seconds(idle), Span::seconds(dead_after))).as_secs();
                assert!(found <= idle + dead_after, "{idle} {dead_after}: {found}");
                assert!(found >= idle.max(dead_after), "{idle} {dead_after}: {found}");
            }
        }
    }

    #[test]
    fn each_time_can_be_off() {
        let both = keepalive(Span::seconds(20), Span::seconds(60));
        assert_eq!(both.asks, asks(20, 10, 4));
        let defaults = Keepalive::new(&Sessions::default());
        assert_eq!(defaults.dead_after, Some(Duration::from_secs(60)));
        assert_eq!(defaults.asks, asks(120, 60, 1));
        let patient = keepalive(Span::seconds(120), Span::OFF);
        assert_eq!((patient.dead_after, patient.asks), (None, asks(120, 15, 4)));
        let silent = keepalive(Span::OFF, Span::seconds(5));
        assert_eq!((silent.dead_after, silent.asks), (Some(Duration::from_secs(5)), None));
        // Longer than the kernel knows is as long as it knows.
        assert_eq!(keepalive(Span::days(300), Span::OFF).asks, asks(LONGEST, 15, 4));
    }

    #[tokio::test]
    async fn the_kernel_takes_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("is bound");
        for longest in [Span::seconds(1), Span::seconds(60), Span::days(300)] {
            let tcp = TcpStream::connect(address).await.expect("is let in");
            let wanted = keepalive(longest, longest);
            wanted.tune(&tcp).expect("is taken");
            let (socket, asks) = (SockRef::from(&tcp), wanted.asks.expect("asks"));
            assert!(socket.keepalive().expect("is known"));
            assert_eq!(socket.tcp_keepalive_time().expect("is known"), asks.idle);
            assert_eq!(socket.tcp_keepalive_interval().expect("is known"), asks.interval);
            assert_eq!(socket.tcp_keepalive_retries().expect("is known"), asks.retries);
            #[cfg(target_os = "linux")]
            assert_eq!(socket.tcp_user_timeout().expect("is known"), wanted.dead_after);
        }
        let tcp = TcpStream::connect(address).await.expect("is let in");
        keepalive(Span::OFF, Span::OFF).tune(&tcp).expect("is taken");
        assert!(!SockRef::from(&tcp).keepalive().expect("is known"));
    }
}

//! What the server is asked to do with itself: to stop, to stop and send its clients elsewhere, or to
//! start anew. Asking is for commands and signals; the main program waits for it and does it. The
//! first to ask counts, but a plain stop cuts short what goes on.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
    sync::{Arc, OnceLock, atomic::Ordering},
};

use tokio::sync::watch;
use wire::{Jid, StreamCondition, StreamError};

use crate::{
    Server,
    end::{self, End, Reason},
    pace::{Control, Pace},
};

/// How the server is to end its run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// To stop, after all clients have been told, at this pace, to go there.
    MoveTo(Elsewhere, Pace),
    /// To start anew in the same process, with its listening sockets open all the while.
    Restart,
    /// To be gone.
    Stop,
}

/// Another server for our clients, in the form of RFC 6120 section 4.9.3.19: a host, and a port
/// unless it is the usual one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elsewhere(Arc<str>);

impl FromStr for Elsewhere {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is not a host; hint: write it as in `xmpp.example.org`, \
                 `xmpp.example.org:5222`, `192.0.2.1:5222` or `[2001:db8::1]:5222`"
            )
        };
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((ip, rest)) => {
                let ip: Ipv6Addr = ip.parse().map_err(|_| wrong())?;
                let port = rest.strip_prefix(':');
                if port.is_none() && !rest.is_empty() {
                    return Err(wrong());
                }
                (format!("[{ip}]"), port)
            }
            None => {
                let (host, port) = match text.split_once(':') {
                    Some((host, port)) => (host, Some(port)),
                    None => (text, None),
                };
                let name = Jid::parse(host).ok().filter(|jid| {
                    let bare = jid.local().is_none() && jid.resource().is_none();
                    bare && !host.contains(['[', ']'])
                });
                match (host.parse::<Ipv4Addr>(), name) {
                    (Ok(ip), _) => (ip.to_string(), port),
                    (Err(_), Some(name)) => (name.domain().to_owned(), port),
                    (Err(_), None) => return Err(wrong()),
                }
            }
        };
        Ok(Self(match port.map(str::parse::<u16>) {
            None => host.into(),
            Some(Ok(port)) if port > 0 => format!("{host}:{port}").into(),
            Some(_) => return Err(wrong()),
        }))
    }
}

impl fmt::Display for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a new start can succeed; if not, why, and what to do.
type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Where the end of a run is asked for.
pub struct Stop {
    wish: watch::Sender<Option<Wish>>,
    restart: OnceLock<Check>,
}

impl Default for Stop {
    fn default() -> Self {
        Self { wish: watch::Sender::new(None), restart: OnceLock::new() }
    }
}

impl Stop {
    /// Asks. False: somebody has before, and that goes on.
    pub fn ask(&self, wish: Wish) -> bool {
        self.wish.send_if_modified(|asked| {
            let counts = match asked {
                None => true,
                Some(Wish::Stop) => false,
                Some(Wish::MoveTo(..) | Wish::Restart) => wish == Wish::Stop,
            };
            if counts {
                *asked = Some(wish);
            }
            counts
        })
    }

    /// Whether somebody has asked.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.wish.borrow().is_some()
    }

    /// Ready when somebody has asked.
    pub async fn asked(&self) -> Wish {
        self.wait(|_| true).await
    }

    /// Ready when somebody has asked for a plain stop.
    pub async fn asked_to_stop(&self) {
        self.wait(|wish| *wish == Wish::Stop).await;
    }

    async fn wait(&self, fits: impl Fn(&Wish) -> bool) -> Wish {
        let mut asked = self.wish.subscribe();
        match asked.wait_for(|wish| wish.as_ref().is_some_and(&fits)).await.as_deref() {
            Ok(Some(wish)) => wish.clone(),
            // The sender is ours, so it is never gone.
            _ => Wish::Stop,
        }
    }

    /// What a connection is told that comes when the server takes none any more.
    pub(crate) fn farewell(&self) -> StreamError {
        match &*self.wish.borrow() {
            Some(Wish::MoveTo(elsewhere, _)) => moved(elsewhere),
            _ => StreamError::new(StreamCondition::SystemShutdown),
        }
    }

    /// Says that the server is able to start anew, once `check` finds nothing in the way.
    pub fn can_restart(&self, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        let _ = self.restart.set(Arc::new(check));
    }
}

fn moved(elsewhere: &Elsewhere) -> StreamError {
    StreamError::see_other_host(elsewhere.0.clone())
        .with_text(Reason::Shutdown.text())
        .with_app(end::element(Reason::Shutdown.as_str(), "server"))
}

impl Server {
    /// Asks for a new start, after a look at whether it can succeed: what would fail afterwards, with
    /// everybody gone already, is to fail now.
    ///
    /// # Errors
    /// Why it cannot, and what to do.
    pub async fn restart(&self) -> Result<(), String> {
        let unable = "this server cannot start itself anew; hint: stop it and start it";
        let check = self.stop.restart.get().ok_or(unable)?.clone();
        let checked = tokio::task::spawn_blocking(move || check()).await;
        checked.map_err(|why| why.to_string())??;
        match self.stop.ask(Wish::Restart) {
            true => Ok(()),
            false => Err("the server is stopping or starting anew already".into()),
        }
    }

    /// Takes no new session, and sends those that there are elsewhere, one after the other. Sessions
    /// whose turn has not come go on as ever; when this is dropped, [`shutdown`](Self::shutdown) is
    /// for them.
    pub async fn move_clients(self: &Arc<Self>, elsewhere: &Elsewhere, pace: Pace) {
        self.stopping.store(true, Ordering::Release);
        let sessions: Vec<_> = self.registry.all().collect();
        tracing::info!(event = "moving", sessions = sessions.len(), to = %elsewhere);
        let end = End { error: Some(moved(elsewhere)), ..End::new(Reason::Shutdown) };
        self.end_paced(sessions, &end, pace, &Control::default(), |_| {}).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elsewhere() -> Wish {
        let pace = Pace::per_second(1).expect("is not 0");
        Wish::MoveTo("b.example".parse().expect("a host"), pace)
    }

    #[tokio::test]
    async fn the_first_wish_counts_but_a_plain_stop_cuts_it_short() {
        for first in [Wish::Restart, elsewhere()] {
            let stop = Stop::default();
            assert!(stop.ask(first.clone()));
            assert!(!stop.ask(Wish::Restart) && !stop.ask(elsewhere()));
            assert_eq!(stop.asked().await, first);
            assert_eq!(stop.asked().await, first, "whoever looks later sees it too");
            assert!(stop.ask(Wish::Stop));
            stop.asked_to_stop().await;
            assert!(!stop.ask(first) && !stop.ask(Wish::Stop));
            assert_eq!(stop.asked().await, Wish::Stop);
        }
    }

    #[test]
    fn another_host_has_the_form_of_the_rfc() {
        let shown = |text: &str| text.parse::<Elsewhere>().map(|place| place.to_string());
        for text in [
            "b.example",
            "b.example:5222",
            "192.0.2.1",
            "192.0.2.1:5222",
            "[2001:db8::1]",
            "[2001:db8::1]:5222",
        ] {
            assert_eq!(shown(text).as_deref(), Ok(text));
        }
        assert_eq!(shown("[2001:0db8::0001]:05222").as_deref(), Ok("[2001:db8::1]:5222"));
        for text in [
            "",
            ":5222",
            "b.example:",
            "b.example:0",
            "b.example:65536",
            "2001:db8::1",
            "[2001:db8::1",
            "[2001:db8::1]5222",
            "[192.0.2.1]:5222",
            "[b.example]",
            "alice@b.example",
            "b.example/x",
            "b example",
            "b.example:5222<",
        ] {
            let why = shown(text).expect_err(text);
            assert!(why.contains("hint: "), "{why}");
        }
    }
}

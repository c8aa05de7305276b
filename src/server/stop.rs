//! What the server is asked to do with itself: to stop, or to start anew. Asking is for commands and
//! signals; the main program waits for it and does it. Only the first to ask counts.

use std::sync::{Arc, OnceLock};

use tokio::sync::watch;

use crate::Server;

/// How the server is to end its run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// To start anew in the same process, with its listening sockets open all the while.
    Restart,
    /// To be gone.
    Stop,
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
    /// Asks. False: somebody has before.
    pub fn ask(&self, wish: Wish) -> bool {
        self.wish.send_if_modified(|asked| {
            let first = asked.is_none();
            asked.get_or_insert(wish);
            first
        })
    }

    /// Ready when somebody has asked.
    pub async fn asked(&self) -> Wish {
        let mut asked = self.wish.subscribe();
        match asked.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(wish)) => wish.clone(),
            // The sender is ours, so it is never gone.
            _ => Wish::Stop,
        }
    }

    /// Says that the server is able to start anew, once `check` finds nothing in the way.
    pub fn can_restart(&self, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        let _ = self.restart.set(Arc::new(check));
    }
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_wish_counts() {
        let stop = Stop::default();
        assert!(stop.ask(Wish::Restart));
        assert!(!stop.ask(Wish::Stop));
        assert_eq!(stop.asked().await, Wish::Restart);
        assert_eq!(stop.asked().await, Wish::Restart, "whoever looks later sees it too");
    }
}

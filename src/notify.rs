//! What the service manager is told, if it asks to be: systemd's `Type=notify` and `WatchdogSec=`.
//! Without one (no `NOTIFY_SOCKET`) all of this does nothing.

use sd_notify::NotifyState;
use tokio::time::interval;

/// The server takes connections and commands.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The server starts anew in the same process, and is ready again afterwards.
pub(crate) fn reloading() {
    // systemd tells by the time which of several it is.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// The server drains.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Shows that the server's tasks run, as often as is asked for; for ever.
pub(crate) async fn watchdog() {
    let Some(bound) = sd_notify::watchdog_enabled().filter(|bound| !bound.is_zero()) else {
        return;
    };
    let mut pings = interval(bound / 2);
    loop {
        pings.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

fn tell(what: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(what) {
        tracing::warn!(event = "notify-failed", %error);
    }
}

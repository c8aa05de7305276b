//! The order of Usher's life and nothing else: arguments, log, configuration, data directory, store,
//! keys, plugins, listeners, admin socket; then waiting for a reason to stop, draining, and perhaps
//! starting anew.
#![forbid(unsafe_code)]

mod notify;
mod restart;

use std::{
    fs::DirBuilder,
    io::{self, IsTerminal as _, Write as _, stderr, stdout},
    net::SocketAddr,
    os::unix::fs::DirBuilderExt,
    path::Path,
    pin::pin,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use admin::{Next, socket::Socket};
use anyhow::{Context, anyhow, bail};
use net::{Door, Inherited, Listener, Tls, http::Http, inherited::Kept, tls};
use server::{
    Server,
    clock::Clock,
    command,
    config::{self, Config, LogFormat, Storage},
    keyring::KeyRing,
    stop::Wish,
    store::SharedStore,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinSet,
};
use tracing_subscriber::EnvFilter;

use crate::restart::Image;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long requests of others, and our own, are waited for once everything else is over.
const LAST_REQUESTS: Duration = Duration::from_secs(5);
/// How long tasks that are still there may take when everything else is over.
const LAST_TASKS: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let commands: Vec<_> = command::table().collect();
    let file = match admin::run(std::env::args_os(), &commands) {
        Next::Exit(code) => return code,
        Next::Serve(file) => file,
    };
    let served = config::load(file.as_deref())
        .map_err(Into::into)
        .and_then(|config| serve(&config, file.as_deref()));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(config: &Config, file: Option<&Path>) -> anyhow::Result<()> {
    log(config)?;
    // Before there is another thread.
    let inherited = Inherited::from_env()?;
    let image = Image::remember(file).context("finding out what was started")?;
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(event = "descriptor-limit", %error);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let left = runtime.block_on(live(config, inherited, &image));
    runtime.shutdown_timeout(LAST_TASKS);
    match left? {
        Left::Stopped => Ok(()),
        Left::Restarting(sockets) => Err(image.exec(sockets)),
    }
}

/// What a life leaves behind.
enum Left {
    Stopped,
    /// The same process is to go on with these.
    Restarting(Vec<Kept>),
}

/// What the server listens to besides its clients.
struct Signals {
    hangup: Signal,
    stop: StopSignals,
    user2: Signal,
}

struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            stop: StopSignals {
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
            },
            user2: signal(SignalKind::user_defined2())?,
        })
    }
}

async fn live(config: &Config, inherited: Inherited, image: &Image) -> anyhow::Result<Left> {
    // Before the first word is said: whoever hears it may send a signal.
    let signals = Signals::listen()?;
    // From the first moment: a new start is no reason to be taken for dead.
    tokio::spawn(notify::watchdog());
    let dir = &config.data_dir;
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| {
        let dir = dir.display();
        anyhow!(
            "cannot create the data directory `{dir}`: {error}; hint: start where the server's \
                 user may write, or set `data_dir`"
        )
    })?;
    let store = match config.storage {
        Storage::Memory => store::memory(),
        Storage::Sqlite => store::sqlite(dir)?,
    };
    let lived = live_on(config, &store, inherited, image, signals).await;
    // Whatever happened: a database left open would still talk behind the last line, the error.
    let closed = store.close().await.context("closing the database");
    let left = lived.and_then(|left| closed.map(|()| left))?;
    match &left {
        Left::Stopped => tracing::info!(event = "stopped"),
        Left::Restarting(sockets) => {
            tracing::info!(event = "restarting", sockets = sockets.len());
        }
    }
    Ok(left)
}

async fn live_on(
    config: &Config,
    store: &SharedStore,
    inherited: Inherited,
    image: &Image,
    signals: Signals,
) -> anyhow::Result<Left> {
    let keys = match config.storage {
        Storage::Memory => KeyRing::ephemeral(),
        Storage::Sqlite => KeyRing::open(&config.data_dir.join("server.key"))?,
    };
    let certificate = Arc::new(Tls::new(identity(config)?)?);
    let listeners = listen(config, inherited)?;
    let server = Server::new(config.clone(), Clock::system(), store.clone(), keys, plugins::ALL)?;
    server.upgrade().await.context("taking over what an earlier release left")?;
    server.wake_up().await.context("bringing back the sessions that wait to be resumed")?;
    let socket = Socket::bind(&admin::socket::path(config))?;
    let (drained, told) = tokio::sync::oneshot::channel::<()>();

    let mut sockets = Vec::new();
    let mut doors = JoinSet::new();
    let (last_request, requests_end) = watch::channel(false);
    let router = admin::http::router(&server, requests_end.clone());
    let http = Http::new(server.clone(), certificate.clone(), router);
    let mut requests = JoinSet::new();
    for listener in listeners {
        announce(&listener);
        sockets.push(listener.keep().context("keeping a listening socket")?);
        match listener.door() {
            Door::C2s | Door::C2sTls => {
                doors.spawn(listener.run(server.clone(), certificate.clone()));
            }
            Door::Http | Door::Https => {
                requests.spawn(http.clone().serve(listener, requests_end.clone()));
            }
        }
    }
    let new = image.clone();
    server.stop.can_restart(move || new.check());
    let administration = tokio::spawn(socket.serve(server.clone(), async {
        let _ = told.await;
    }));
    for webhook in &config.webhook {
        requests.spawn(net::webhook::tell(server.clone(), webhook.clone(), requests_end.clone()));
    }
    tokio::spawn(server.clone().sweep_forever());
    tokio::spawn(server.clone().keep_schedule());
    tokio::spawn(server.clone().age_forever());
    tokio::spawn(server.clone().sample_forever());
    let Signals { hangup, mut stop, user2 } = signals;
    tokio::spawn(reload(hangup, config.clone(), certificate));
    tokio::spawn(restart_by(user2, server.clone()));
    greet(&server).await?;
    notify::ready();

    let mut wish = tokio::select! {
        () = told_to_stop(&mut stop, &server) => Wish::Stop,
        wish = server.stop.asked() => wish,
    };
    if wish == Wish::Restart {
        notify::reloading();
        // Whoever connects from now on waits for the next life.
        doors.shutdown().await;
    }
    if let Wish::MoveTo(elsewhere, pace) = &wish {
        tokio::select! {
            () = server.move_clients(elsewhere, *pace) => {}
            () = told_to_stop(&mut stop, &server) => {}
        }
    }
    // Not before: from here on the service manager has only so much patience.
    if wish != Wish::Restart {
        notify::stopping();
    }
    let mut drain = pin!(server.shutdown());
    loop {
        tokio::select! {
            () = &mut drain => break,
            () = told_to_stop(&mut stop, &server), if wish == Wish::Restart => wish = Wish::Stop,
        }
    }
    // The one who asked for the stop hears how it went; then nobody writes any more.
    drop(drained);
    let _ = last_request.send(true);
    let _ = administration.await;
    let _ = tokio::time::timeout(LAST_REQUESTS, requests.join_all()).await;
    Ok(match wish {
        Wish::MoveTo(..) | Wish::Stop => Left::Stopped,
        Wish::Restart => Left::Restarting(sockets),
    })
}

/// Ready when a plain stop is asked for, in whichever way.
async fn told_to_stop(signals: &mut StopSignals, server: &Server) {
    tokio::select! {
        _ = signals.interrupt.recv() => {}
        _ = signals.terminate.recv() => {}
        () = server.stop.asked_to_stop() => {}
    }
}

/// SIGUSR2: starts anew; what is in the way is said, and nothing happens.
async fn restart_by(mut signals: Signal, server: Arc<Server>) {
    while signals.recv().await.is_some() {
        if let Err(error) = server.restart().await {
            tracing::error!(event = "restart-refused", error);
        }
    }
}

fn log(config: &Config) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log.level).context("`log.level`")?;
    // A log that cannot be written (its disk is full, its reader gone) must not stop the server:
    // by default, every event would panic then.
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal())
        .log_internal_errors(false);
    match config.log.format {
        LogFormat::Json => lines.json().flatten_event(true).init(),
        LogFormat::Text => lines.with_target(false).init(),
    }
    Ok(())
}

fn identity(config: &Config) -> anyhow::Result<tls::Identity> {
    let hosts: Vec<String> = config.host.iter().map(|host| host.name.clone()).collect();
    Ok(match (&config.tls.certificate, &config.tls.key) {
        (Some(certificate), Some(key)) => tls::load(certificate, key)?,
        (None, None) => tls::self_signed(&config.data_dir, &hosts)?,
        _ => bail!("`tls.certificate` and `tls.key` go together; hint: set both or none"),
    })
}

fn listen(config: &Config, inherited: Inherited) -> anyhow::Result<Vec<Listener>> {
    let mut wanted = Vec::new();
    let listen = &config.listen;
    let doors = [
        (Door::C2s, &listen.c2s),
        (Door::C2sTls, &listen.c2s_tls),
        (Door::Http, &listen.http),
        (Door::Https, &listen.https),
    ];
    for (door, addresses) in doors {
        for address in addresses {
            let address: SocketAddr =
                address.parse().with_context(|| format!("`listen.{}`: `{address}`", door.key()))?;
            wanted.push((door, address));
        }
    }
    Ok(inherited.open(&wanted)?)
}

fn announce(listener: &Listener) {
    let what = match listener.door() {
        Door::C2s => "clients, STARTTLS",
        Door::C2sTls => "clients, direct TLS",
        Door::Http => "HTTP",
        Door::Https => "HTTP, TLS",
    };
    if let Some(address) = listener.address() {
        say(&format!("listening on {address} ({what})"));
    }
}

/// A line for who started the server; nobody has to read it.
fn say(line: &str) {
    let _ = writeln!(stdout(), "{line}");
}

/// Tells the newcomer how to go on; once there is an account, only that the server is up.
async fn greet(server: &Server) -> anyhow::Result<()> {
    let host = server.default_host();
    say(&format!("serving {host}, data in {}", show(&server.config.data_dir)));
    if server.accounts(None, 1).await?.is_empty() {
        say(&format!(
            "no account yet; add the first one with: usher user add NAME@{host} --role admin"
        ));
    }
    Ok(())
}

fn show(path: &Path) -> String {
    path.canonicalize().unwrap_or_else(|_| path.into()).display().to_string()
}

/// SIGHUP: the certificate is read again; a bad one leaves the present one in place.
async fn reload(mut hangups: Signal, config: Config, certificate: Arc<Tls>) {
    while hangups.recv().await.is_some() {
        match identity(&config).and_then(|identity| Ok(certificate.replace(identity)?)) {
            Ok(()) => {
                tracing::info!(event = "certificate-reloaded", sha256 = certificate.fingerprint())
            }
            Err(error) => {
                tracing::error!(event = "certificate-not-reloaded", error = format!("{error:#}"))
            }
        }
    }
}

//! The order of Usher's life and nothing else: arguments, log, configuration, data directory, store,
//! keys, plugins, listeners, admin socket; then waiting for a reason to stop, and draining.
#![forbid(unsafe_code)]

use std::{
    fs::DirBuilder,
    io::{IsTerminal as _, Write as _, stderr, stdout},
    net::SocketAddr,
    os::unix::fs::DirBuilderExt,
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use admin::{Next, socket::Socket};
use anyhow::{Context, anyhow, bail};
use net::{Door, Listener, Tls, tls};
use server::{
    Server,
    clock::Clock,
    command,
    config::{self, Config, LogFormat, Storage},
    keyring::KeyRing,
    store::SharedStore,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let commands: Vec<_> = command::table().collect();
    let file = match admin::run(std::env::args_os(), &commands) {
        Next::Exit(code) => return code,
        Next::Serve(file) => file,
    };
    let served = config::load(file.as_deref()).map_err(Into::into).and_then(|c| serve(&c));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(config: &Config) -> anyhow::Result<()> {
    log(config)?;
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(event = "descriptor-limit", %error);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(live(config))
}

async fn live(config: &Config) -> anyhow::Result<()> {
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
    let lived = live_on(config, &store).await;
    // Whatever happened: a database left open would still talk behind the last line, the error.
    let closed = store.close().await.context("closing the database");
    lived.and(closed)?;
    tracing::info!(event = "stopped");
    Ok(())
}

async fn live_on(config: &Config, store: &SharedStore) -> anyhow::Result<()> {
    // Before the first word is said: whoever hears it may send a signal.
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let hangups = signal(SignalKind::hangup())?;
    let keys = match config.storage {
        Storage::Memory => KeyRing::ephemeral(),
        Storage::Sqlite => KeyRing::open(&config.data_dir.join("server.key"))?,
    };
    let certificate = Arc::new(Tls::new(identity(config)?)?);
    let listeners = listen(config)?;
    let server = Server::new(config.clone(), Clock::system(), store.clone(), keys, plugins::ALL)?;
    server.upgrade().await.context("taking over what an earlier release left")?;
    server.wake_up().await.context("bringing back the sessions that wait to be resumed")?;
    let socket = Socket::bind(&admin::socket::path(config))?;
    let (drained, told) = tokio::sync::oneshot::channel::<()>();

    for listener in listeners {
        announce(&listener);
        tokio::spawn(listener.run(server.clone(), certificate.clone()));
    }
    let administration = tokio::spawn(socket.serve(server.clone(), async {
        let _ = told.await;
    }));
    tokio::spawn(server.clone().sweep_forever());
    tokio::spawn(server.clone().keep_schedule());
    tokio::spawn(server.clone().age_forever());
    tokio::spawn(reload(hangups, config.clone(), certificate));
    greet(&server).await?;

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = server.stop.notified() => {}
    }
    server.shutdown().await;
    // The one who asked for the stop hears how it went; then nobody writes any more.
    drop(drained);
    let _ = administration.await;
    Ok(())
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

fn listen(config: &Config) -> anyhow::Result<Vec<Listener>> {
    let mut listeners = Vec::new();
    let doors = [(Door::C2s, &config.listen.c2s), (Door::C2sTls, &config.listen.c2s_tls)];
    for (door, addresses) in doors {
        for address in addresses {
            let address: SocketAddr =
                address.parse().with_context(|| format!("`listen.{}`: `{address}`", door.key()))?;
            listeners.push(Listener::bind(door, address)?);
        }
    }
    Ok(listeners)
}

fn announce(listener: &Listener) {
    let what = match listener.door() {
        Door::C2s => "clients, STARTTLS",
        Door::C2sTls => "clients, direct TLS",
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

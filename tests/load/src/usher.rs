//! Starts an Usher of its own for a run, and ends it.
//!
//! Everything lives in a temporary directory: configuration, data, what the server printed.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::{
    plan,
    report::Report,
    target::{self, Loopback, Target},
};

/// How long the server may take to answer its port, and to end after SIGTERM.
const START: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(30);
/// How long a command may take; importing hashes every password.
const COMMAND: Duration = Duration::from_secs(600);

/// A running server; killed and forgotten when dropped without [`Usher::stop`].
pub struct Usher {
    program: PathBuf,
    directory: TempDir,
    server: Child,
    address: SocketAddr,
}

/// Runs `run` against a server of its own if there is a `program` for it, with accounts, else against
/// the one that is named.
pub async fn against<F>(
    program: Option<&Path>,
    options: &target::Options,
    accounts: u32,
    run: impl FnOnce(Arc<Target>) -> F,
) -> Result<Report>
where
    F: Future<Output = Result<Report>>,
{
    let Some(program) = program else { return run(Arc::new(Target::new(options)?)).await };
    let usher = Usher::start(program, options.proxied).await?;
    let target = usher.target(options, accounts).await;
    let report = async { run(target?).await };
    let report = tokio::select! {
        report = report => report,
        () = plan::interrupted() => Err(anyhow::anyhow!("interrupted")),
    };
    let stopped = usher.stop().await;
    let report = report?;
    stopped?;
    Ok(report)
}

impl Usher {
    /// Starts `program` and waits until its port answers. The error ends with what it printed.
    /// `proxied`: it takes every connection for a balancer's.
    pub async fn start(program: &Path, proxied: bool) -> Result<Self> {
        let program = program.canonicalize();
        let program = program.context("no such program; hint: `cargo build --release`")?;
        let directory = tempfile::Builder::new().prefix("usher-load-").tempdir()?;
        let address = free_address()?;
        let config = config(directory.path(), address, proxied);
        fs::write(directory.path().join("usher.toml"), config)?;
        let server = serve(&program, directory.path())?;
        let mut usher = Self { program, directory, server, address };
        usher.answers().await?;
        Ok(usher)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.server.id()
    }

    /// The same server as a target, with accounts `0..count`.
    pub async fn target(&self, options: &target::Options, count: u32) -> Result<Arc<Target>> {
        let against = Loopback(self.address);
        let options = target::Options { against, pid: Some(self.pid()), ..options.clone() };
        let target = Arc::new(Target::new(&options)?);
        eprintln!("importing {count} accounts ...");
        self.import(count, |n| target.bare(n), |n| target.password(n)).await?;
        Ok(target)
    }

    /// Ends the server with SIGTERM and starts it again as soon as it is gone. Says how long the
    /// first took.
    pub async fn restart(&mut self) -> Result<Duration> {
        let started = Instant::now();
        self.signal("TERM")?;
        let status = wait(&mut self.server, STOP).await;
        let status = status.context("the server did not end after SIGTERM, and was killed")?;
        ensure!(status.success(), "the server ended with {status}: {}", self.printed());
        let took = started.elapsed();
        self.server = serve(&self.program, self.directory.path())?;
        Ok(took)
    }

    /// Sends the server a signal.
    pub fn signal(&self, name: &str) -> Result<()> {
        signal(name, self.pid())
    }

    /// Creates accounts `0..count`, `password` telling each one's; says how long it took.
    pub async fn import(
        &self,
        count: u32,
        jid: impl Fn(u32) -> String,
        password: impl Fn(u32) -> String,
    ) -> Result<Duration> {
        let path = self.directory.path().join("accounts.csv");
        let rows: String = (0..count).map(|n| format!("{},{}\n", jid(n), password(n))).collect();
        fs::write(&path, rows)?;
        let started = Instant::now();
        self.command(&["user", "import", &path.to_string_lossy()]).await?;
        Ok(started.elapsed())
    }

    /// Mints a token for each of accounts `0..count`, into a file with one per line.
    pub async fn mint(&self, count: u32, jid: impl Fn(u32) -> String) -> Result<PathBuf> {
        let mut tokens = String::new();
        for index in 0..count {
            let printed = self.command(&["token", "mint", &jid(index)]).await?;
            let mut words = printed.split_ascii_whitespace();
            let token = words.find(|word| word.starts_with("secret-token:"));
            tokens.push_str(token.context("`token mint` printed no token")?);
            tokens.push('\n');
        }
        let path = self.directory.path().join("tokens");
        fs::write(&path, tokens)?;
        Ok(path)
    }

    /// Ends the server with SIGTERM and removes the directory. Fails when it had to be killed or
    /// ended with another status than 0.
    pub async fn stop(mut self) -> Result<()> {
        self.signal("TERM")?;
        let status = wait(&mut self.server, STOP).await;
        let status = status.context("the server did not end after SIGTERM, and was killed")?;
        ensure!(status.success(), "the server ended with {status}: {}", self.printed());
        Ok(())
    }

    async fn answers(&mut self) -> Result<()> {
        let deadline = Instant::now() + START;
        while TcpStream::connect(self.address).is_err() {
            if let Some(status) = self.server.try_wait()? {
                bail!("the server ended at once with {status}: {}", self.printed());
            }
            ensure!(Instant::now() < deadline, "the server does not answer: {}", self.printed());
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    async fn command(&self, arguments: &[&str]) -> Result<String> {
        let what = format!("`usher {}`", arguments[..2.min(arguments.len())].join(" "));
        let path = self.directory.path().join("command");
        let output = File::create(&path)?;
        let mut child = Command::new(&self.program)
            .args(arguments)
            .arg("--config")
            .arg(self.directory.path().join("usher.toml"))
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()?;
        let status = wait(&mut child, COMMAND).await.with_context(|| format!("{what} hangs"))?;
        let printed = fs::read_to_string(&path)?;
        ensure!(status.success(), "{what} ended with {status}: {}", tail(&printed));
        Ok(printed)
    }

    fn printed(&self) -> String {
        tail(&fs::read_to_string(self.directory.path().join("output")).unwrap_or_default())
    }
}

impl Drop for Usher {
    fn drop(&mut self) {
        // Both fail when it has ended already.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Sends a process a signal.
pub fn signal(name: &str, pid: u32) -> Result<()> {
    // The shell's own `kill`, as the standard library has no signal but SIGKILL.
    let status =
        Command::new("sh").args(["-c", "kill -\"$0\" \"$1\"", name, &pid.to_string()]).status()?;
    ensure!(status.success(), "cannot send SIG{name} to the server");
    Ok(())
}

/// Starts the program on the configuration in a directory.
fn serve(program: &Path, directory: &Path) -> Result<Child> {
    let output = File::options().create(true).append(true).open(directory.join("output"))?;
    let server = Command::new(program)
        .args(["serve", "--config"])
        .arg(directory.join("usher.toml"))
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn();
    server.with_context(|| format!("cannot start `{}`", program.display()))
}

/// The configuration: plain TCP on one address, no caps that one machine's load would meet, and
/// the least iterations, which importing pays for and a SCRAM login does not.
fn config(directory: &Path, address: SocketAddr, proxied: bool) -> String {
    let proxies = match proxied {
        true => "proxies = [\"127.0.0.0/8\", \"::1/128\"]\nproxies_tls = true\n",
        false => "",
    };
    format!(
        r#"data_dir = '{}/data'

[[host]]
name = "localhost"

[listen]
c2s = ["{address}"]
c2s_tls = []
{proxies}
[tls]
required = false

[auth]
scram_iterations = 4096

[limits]
per_address = 0
connects_per_second = 0
logins_at_once = 0
per_account = 0

[sessions]
hibernating = 0

[limits.bound]
stanza_bytes = 262144
elements = 10000
depth = 100
attributes = 100
bytes_per_second = 0
time = "off"
"#,
        directory.display()
    )
}

/// An address that nobody listens at.
pub fn free_address() -> Result<SocketAddr> {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(probe.local_addr()?)
}

/// Waits for the end of a process; kills it and fails when it takes too long.
pub async fn wait(child: &mut Child, patience: Duration) -> Result<ExitStatus> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            bail!("it took more than {} s", patience.as_secs());
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// The last lines of a text.
pub fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A server that is a shell script.
    fn script(directory: &TempDir, text: &str) -> PathBuf {
        let path = directory.path().join("usher");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[tokio::test]
    async fn a_server_that_ends_at_once_is_quoted() {
        let directory = tempfile::tempdir().unwrap();
        let program = script(&directory, "echo the port is taken >&2; exit 1");
        let error = Usher::start(&program, false).await.err().unwrap();
        assert!(format!("{error:#}").contains("the port is taken"), "{error:#}");
        assert!(Usher::start(Path::new("/nowhere/usher"), false).await.is_err());
    }
}

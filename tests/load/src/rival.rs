//! Starts the servers that Usher is set beside, Prosody and ejabberd as Debian has them, each on one
//! loopback address with everything in a temporary directory, and ends it by its process.
//!
//! Both keep SCRAM-SHA-256 keys of 4096 iterations and nothing else of a password, allow plain TCP,
//! and have stream management on. Their accounts are registered by themselves.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::{
    client::Client,
    crowd::each,
    target::{self, Loopback, Target},
    usher::{free_address, signal, tail, wait},
};

/// How long one may take to answer its port, and to end after SIGTERM.
const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(30);
/// How long a command may take.
const COMMAND: Duration = Duration::from_secs(60);

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Prosody,
    Ejabberd,
}

impl Kind {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prosody => "prosody",
            Self::Ejabberd => "ejabberd",
        }
    }

    /// Whether Debian's package is there.
    pub fn is_installed(self) -> bool {
        match self {
            Self::Prosody => Path::new("/usr/bin/prosody").exists(),
            Self::Ejabberd => {
                Path::new("/usr/sbin/ejabberdctl").exists() && Path::new("/usr/bin/erl").exists()
            }
        }
    }
}

/// A running server; killed and forgotten when dropped without [`Rival::stop`].
pub struct Rival {
    kind: Kind,
    directory: TempDir,
    address: SocketAddr,
    server: Child,
}

impl Rival {
    /// Starts it with accounts `u0..`, of one password that `options` say, and waits until it answers.
    pub async fn start(
        kind: Kind,
        options: &target::Options,
        accounts: u32,
    ) -> Result<(Self, Arc<Target>)> {
        let directory = tempfile::Builder::new().prefix("load-rival-").tempdir()?;
        let address = free_address()?;
        let path = directory.path();
        let command = match kind {
            Kind::Prosody => {
                let password = options.password.as_deref().unwrap_or_default();
                prosody(path, address, &options.domain, password, accounts).await?
            }
            Kind::Ejabberd => ejabberd(path, address, &options.domain)?,
        };
        let server = spawn(command, path, "output")?;
        let mut rival = Self { kind, directory, address, server };
        rival.answers().await?;
        let against = Loopback(address);
        let pid = Some(rival.server.id());
        let target = Target::new(&target::Options { against, pid, ..options.clone() })?;
        let target = Arc::new(target);
        if kind == Kind::Ejabberd {
            let to = target.clone();
            each(accounts, 16, move |index| {
                let to = to.clone();
                async move { Client::register(&to, index).await }
            })
            .await
            .context("cannot register accounts at ejabberd")?;
        }
        Ok((rival, target))
    }

    /// Ends it with SIGTERM.
    pub async fn stop(mut self) -> Result<()> {
        signal("TERM", self.server.id())?;
        let ended = wait(&mut self.server, STOP).await;
        ended.with_context(|| format!("{} did not end, and was killed", self.kind.name()))?;
        Ok(())
    }

    async fn answers(&mut self) -> Result<()> {
        let deadline = Instant::now() + START;
        while TcpStream::connect(self.address).is_err() {
            let ended = self.server.try_wait()?.is_some();
            let printed = fs::read_to_string(self.directory.path().join("output"));
            let printed = tail(&printed.unwrap_or_default());
            let (name, late) = (self.kind.name(), Instant::now() >= deadline);
            ensure!(!ended && !late, "{name} does not answer: {printed}");
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        // Both fail when it has ended already.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn spawn(mut command: Command, directory: &Path, output: &str) -> Result<Child> {
    let output = File::create(directory.join(output))?;
    command
        .current_dir(directory)
        .env("HOME", directory)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    command.spawn().with_context(|| format!("cannot start {:?}", command.get_program()))
}

/// One account is registered, the others are copies of it: they share its salt and password.
async fn prosody(
    directory: &Path,
    address: SocketAddr,
    domain: &str,
    password: &str,
    accounts: u32,
) -> Result<Command> {
    let path = directory.display();
    let config = format!(
        r#"run_as_root = true
data_path = "{path}/data"
pidfile = "{path}/prosody.pid"
log = {{ warn = "{path}/log" }}
interfaces = {{ "{}" }}
c2s_ports = {{ {} }}
c2s_require_encryption = false
allow_unencrypted_plain_auth = true
modules_enabled = {{ "roster", "saslauth", "disco", "ping", "version", "smacks" }}
modules_disabled = {{ "s2s" }}
smacks_max_hibernated_sessions = 100
limits = {{}}
authentication = "internal_hashed"
password_hash = "SHA-256"
default_iteration_count = 4096
storage = "internal"
VirtualHost "{domain}"
"#,
        address.ip(),
        address.port(),
    );
    let file: PathBuf = directory.join("prosody.cfg.lua");
    fs::write(&file, config)?;
    fs::create_dir(directory.join("data"))?;
    let mut register = Command::new("prosodyctl");
    register.arg("--root").arg("--config").arg(&file);
    register.args(["register", "u0", domain, password]);
    let mut register = spawn(register, directory, "registered")?;
    let status = wait(&mut register, COMMAND).await?;
    ensure!(status.success(), "`prosodyctl register` ended with {status}");
    // Its own way of writing a name as a file's.
    let stored: String = domain
        .bytes()
        .map(|byte| match byte.is_ascii_alphanumeric() {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02x}"),
        })
        .collect();
    let stored = directory.join("data").join(stored).join("accounts");
    for index in 1..accounts {
        fs::copy(stored.join("u0.dat"), stored.join(format!("u{index}.dat")))
            .context("cannot find the account that Prosody has written")?;
    }
    let mut command = Command::new("prosody");
    command.arg("-F").arg("--config").arg(file);
    Ok(command)
}

/// Without a name for the Erlang machine: no other one can talk to it, and no port mapper is started.
fn ejabberd(directory: &Path, address: SocketAddr, domain: &str) -> Result<Command> {
    let config = format!(
        r#"hosts: ["{domain}"]
loglevel: warning
auth_method: internal
auth_password_format: scram
auth_scram_hash: sha256
registration_timeout: infinity
acme: {{auto: false}}
listen:
  - {{port: {}, ip: "{}", module: ejabberd_c2s, max_stanza_size: 262144, backlog: 1024}}
access_rules:
  everybody: {{allow: all}}
modules:
  mod_disco: {{}}
  mod_ping: {{}}
  mod_register: {{access: everybody, ip_access: everybody}}
  mod_roster: {{}}
  mod_stream_mgmt: {{}}
"#,
        address.port(),
        address.ip(),
    );
    let file = directory.join("ejabberd.yml");
    fs::write(&file, config)?;
    let mut command = Command::new("erl");
    command
        .args(["+K", "true", "+P", "250000", "-noinput", "-mnesia", "dir"])
        .arg(format!("\"{}\"", directory.display()))
        .args(["-s", "ejabberd"])
        .env("ERL_LIBS", "/usr/lib/x86_64-linux-gnu")
        .env("ERL_MAX_PORTS", "32000")
        .env("EJABBERD_CONFIG_PATH", &file)
        .env("EJABBERD_LOG_PATH", directory.join("ejabberd.log"));
    Ok(command)
}

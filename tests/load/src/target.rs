//! The server under load: where it listens, which accounts it has, which process it is.
//!
//! Only an address literal of this machine's loopback is taken, never a name to resolve: this
//! program cannot be pointed at anybody else's server.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};

use crate::{process::Process, scram};

/// How long any one answer of the server may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// An address that is this machine's loopback, for certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loopback(pub SocketAddr);

impl FromStr for Loopback {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address: SocketAddr = text
            .parse()
            .map_err(|_| format!("`{text}` is not ADDRESS:PORT; hint: `127.0.0.1:5222`"))?;
        if !address.ip().to_canonical().is_loopback() {
            return Err(format!("`{text}` is not a loopback address, and nothing else is loaded"));
        }
        Ok(Self(SocketAddr::new(address.ip().to_canonical(), address.port())))
    }
}

/// The SASL mechanisms that the generator speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mechanism {
    #[value(name = "OAUTHBEARER")]
    OauthBearer,
    #[value(name = "PLAIN")]
    Plain,
    #[value(name = "SCRAM-SHA-256")]
    ScramSha256,
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OauthBearer => "OAUTHBEARER",
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
        })
    }
}

/// The options that say whom to load.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The server's plain TCP address; loopback only
    #[arg(long, global = true, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:5222")]
    pub against: Loopback,
    /// The served domain
    #[arg(long, global = true, default_value = "localhost")]
    pub domain: String,
    /// The server's process: adds its processor time and memory to the report
    #[arg(long, global = true)]
    pub pid: Option<u32>,
    /// One password for all accounts; without it account `uN` has `pass-N`
    #[arg(long, global = true)]
    pub password: Option<String>,
    /// SASL mechanism
    #[arg(long, global = true, default_value = "SCRAM-SHA-256")]
    pub mechanism: Mechanism,
    /// File with one `secret-token:` per line, for OAUTHBEARER; account `uN` takes line N
    #[arg(long, global = true, value_name = "FILE")]
    pub tokens: Option<PathBuf>,
    /// Connect from so many loopback addresses in turn, 127.0.0.2 upwards
    #[arg(long, global = true, default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..=200))]
    pub sources: u16,
    /// Say as a balancer does (PROXY protocol) that the client's TLS ends there: SASL 2 and tokens
    /// are offered on encrypted streams only; the server has to believe it
    #[arg(long, global = true)]
    pub proxied: bool,
}

/// Everything that a session needs to know about its server.
pub struct Target {
    pub address: SocketAddr,
    pub domain: String,
    pub mechanism: Mechanism,
    pub process: Option<Process>,
    pub keys: Arc<scram::Cache>,
    pub proxied: bool,
    password: Option<String>,
    tokens: Vec<String>,
    sources: u16,
}

impl Target {
    /// Checks the options; fails when the process cannot be watched, the tokens cannot be read, or
    /// a name or password would need an escape that this program does not do.
    pub fn new(options: &Options) -> Result<Self> {
        let Options { against, domain, pid, password, mechanism, tokens, sources, proxied } =
            options.clone();
        ensure!(
            !domain.is_empty()
                && domain.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b)),
            "`{domain}` is not a domain of ASCII letters, digits, `-` and `.`"
        );
        ensure!(
            password.as_ref().is_none_or(|text| text.bytes().all(|b| b.is_ascii_graphic())),
            "the password has other than visible ASCII characters"
        );
        ensure!(
            sources == 1 || against.0.is_ipv4(),
            "`--sources` above 1 needs an IPv4 address to connect to"
        );
        let tokens = match tokens {
            Some(path) => read_tokens(&path)?,
            None if mechanism == Mechanism::OauthBearer => {
                bail!("OAUTHBEARER needs tokens; hint: `--tokens FILE`, one per line")
            }
            None => Vec::new(),
        };
        Ok(Self {
            address: against.0,
            domain,
            mechanism,
            process: pid.map(Process::new).transpose()?,
            keys: Arc::default(),
            proxied,
            password,
            tokens,
            sources,
        })
    }

    /// The same, served by another process by now.
    pub fn again(&self, pid: u32) -> Result<Self> {
        Ok(Self {
            address: self.address,
            domain: self.domain.clone(),
            mechanism: self.mechanism,
            process: Some(Process::new(pid)?),
            keys: self.keys.clone(),
            proxied: self.proxied,
            password: self.password.clone(),
            tokens: self.tokens.clone(),
            sources: self.sources,
        })
    }

    /// The name of an account.
    pub fn user(&self, index: u32) -> String {
        format!("u{index}")
    }

    /// The bare JID of an account.
    pub fn bare(&self, index: u32) -> String {
        format!("{}@{}", self.user(index), self.domain)
    }

    /// The password of an account.
    pub fn password(&self, index: u32) -> String {
        self.password.clone().unwrap_or_else(|| format!("pass-{index}"))
    }

    /// The token of an account.
    pub fn token(&self, index: u32) -> Result<&str> {
        let token = self.tokens.get(index as usize).map(String::as_str);
        token.with_context(|| format!("there is no token for {}", self.bare(index)))
    }

    /// How many accounts have a token.
    pub fn tokens(&self) -> u32 {
        u32::try_from(self.tokens.len()).unwrap_or(u32::MAX)
    }

    /// The address to connect from, or `None` to leave it to the kernel.
    pub fn source(&self, index: u32) -> Option<SocketAddr> {
        let last = 2 + (index % u32::from(self.sources)) as u8;
        (self.sources > 1).then(|| (IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)), 0).into())
    }
}

fn read_tokens(path: &PathBuf) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read tokens from `{}`", path.display()))?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_loopback_is_taken() {
        for good in ["127.0.0.1:5222", "127.9.9.9:1", "[::1]:5222", "[::ffff:127.0.0.1]:5222"] {
            assert!(good.parse::<Loopback>().is_ok(), "{good}");
        }
        let bad =
            ["10.0.0.1:5222", "0.0.0.0:5222", "[::]:5222", "[::ffff:8.8.8.8]:1", "192.0.2.1:80"];
        for bad in bad.into_iter().chain(["localhost:5222", "example.org:5222", "127.0.0.1", ""]) {
            assert!(bad.parse::<Loopback>().is_err(), "{bad}");
        }
    }
}

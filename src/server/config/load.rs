//! Reads a configuration file. The file's tables are laid over the defaults before they become a
//! [`Config`], so that a section that sets one key keeps the defaults of that section for the rest;
//! on the way every key is compared with the tree in [`schema`](super::schema): unknown names, wrong
//! types and values out of range are all reported at once, each with its line.
//!
//! Deliberately not checked here: whether files exist, addresses are free and certificates fit. That
//! is found out by who opens them.

use std::{collections::BTreeMap, fmt, fs, io, net::SocketAddr, ops::Range, path::Path};

use serde_json::{Map, Value};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};
use wire::Jid;

use super::{
    Config, Webhook,
    schema::{Kind, Node, ROOT},
};
use crate::{command::network, end::Reason};

/// The file that is read if none is named, in the working directory.
const DEFAULT_FILE: &str = "usher.toml";

/// Reads the configuration from `path`. `None`: from `usher.toml` in the working directory if there
/// is one, else all defaults.
///
/// # Errors
/// [`ConfigError`] when the file cannot be read or says something that cannot be.
pub fn load(path: Option<&Path>) -> Result<Config, ConfigError> {
    let file = path.unwrap_or(Path::new(DEFAULT_FILE));
    match fs::read_to_string(file) {
        Ok(text) => parse(&text, &file.display().to_string()),
        Err(why) if path.is_none() && why.kind() == io::ErrorKind::NotFound => {
            Ok(Config::default())
        }
        Err(why) => Err(ConfigError {
            origin: String::new(),
            problems: vec![Problem {
                line: None,
                message: format!("cannot read the configuration `{}`: {why}", file.display()),
                hint: match why.kind() {
                    io::ErrorKind::NotFound => {
                        format!("`usher config example > {}` writes one", file.display())
                    }
                    _ => "name another with `--config`, or correct the file".into(),
                },
            }],
        }),
    }
}

/// Reads a configuration from `text`; `origin` names it in errors.
///
/// # Errors
/// [`ConfigError`] with everything that is wrong with it.
pub fn parse(text: &str, origin: &str) -> Result<Config, ConfigError> {
    let mut reader = Reader { text, problems: Vec::new(), lines: BTreeMap::new() };
    let config = reader.config();
    let mut problems = reader.problems;
    problems.sort_by_key(|problem| problem.line);
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(ConfigError { origin: origin.into(), problems }),
    }
}

/// Why there is no configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    origin: String,
    problems: Vec<Problem>,
}

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line it stands on, from 1, if it stands anywhere.
    pub line: Option<usize>,
    /// What is wrong, in one line without full stop.
    pub message: String,
    /// What to do about it; may be empty.
    pub hint: String,
}

impl ConfigError {
    /// Everything that is wrong, in the order of the file.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl std::error::Error for ConfigError {}

/// One line per problem, as in `usher.toml:7: unknown key ...`, and one per hint.
impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            match problem.line {
                Some(line) => write!(f, "{}:{line}: {}", self.origin, problem.message)?,
                None if self.origin.is_empty() => f.write_str(&problem.message)?,
                None => write!(f, "{}: {}", self.origin, problem.message)?,
            }
            if !problem.hint.is_empty() {
                write!(f, "\nhint: {}", problem.hint)?;
            }
        }
        Ok(())
    }
}

struct Reader<'t> {
    text: &'t str,
    problems: Vec<Problem>,
    /// Where each key stands that the file sets, by path: `host[0].name`.
    lines: BTreeMap<String, usize>,
}

impl Reader<'_> {
    fn config(&mut self) -> Option<Config> {
        let table = match DeTable::parse(self.text) {
            Ok(table) => table.into_inner(),
            Err(why) => {
                let line = why.span().map(|span| self.line(&span));
                let message = why.message().lines().collect::<Vec<_>>().join(", ");
                self.problem(line, message, "the file is written in TOML, see https://toml.io");
                return None;
            }
        };
        let merged = self.section(&table, &ROOT.keys, ROOT.defaults.clone(), "");
        if !self.problems.is_empty() {
            return None;
        }
        match serde_json::from_value(merged) {
            Ok(config) => {
                self.check(&config);
                Some(config)
            }
            Err(why) => {
                self.problem(None, why.to_string(), "compare with `usher config example`");
                None
            }
        }
    }

    /// Lays a table of the file over `base`.
    fn section(&mut self, table: &DeTable<'_>, keys: &[Node], base: Value, path: &str) -> Value {
        let mut merged = match base {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        for (key, value) in table {
            let name: &str = key.get_ref();
            let path = if path.is_empty() { name.into() } else { format!("{path}.{name}") };
            let line = self.line(&key.span());
            self.lines.insert(path.clone(), line);
            let Some(node) = keys.iter().find(|node| node.name == name) else {
                let hint = suggestion(name, keys, &path);
                self.problem(Some(line), format!("unknown key `{path}`"), hint);
                continue;
            };
            let base = merged.remove(name).unwrap_or_default();
            if let Some(value) = self.value(value, &node.kind, base, &path, line) {
                merged.insert(name.into(), value);
            }
        }
        Value::Object(merged)
    }

    fn value(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        kind: &Kind,
        base: Value,
        path: &str,
        line: usize,
    ) -> Option<Value> {
        let converted = match (kind, value.get_ref()) {
            (Kind::Section(keys), DeValue::Table(table)) => {
                return Some(self.section(table, keys, base, path));
            }
            (Kind::Sections(keys), DeValue::Array(list)) => {
                return self.list(list.iter(), path, |reader, item, path, line| {
                    reader.item_section(item, keys, path, line)
                });
            }
            (Kind::List(kind), DeValue::Array(list)) => {
                return self.list(list.iter(), path, |reader, item, path, line| {
                    reader.value(item, kind, Value::Null, path, line)
                });
            }
            (Kind::Boolean, DeValue::Boolean(value)) => Some(Value::Bool(*value)),
            (Kind::Number(min, max), DeValue::Integer(number)) => {
                let number = i128::from_str_radix(number.as_str(), number.radix()).ok();
                let number = number.filter(|number| (min..=max).contains(&number));
                number.and_then(|number| i64::try_from(number).ok()).map(Value::from)
            }
            (Kind::Choice(words), DeValue::String(text)) => {
                words.iter().any(|word| word == text).then(|| Value::from(&**text))
            }
            (Kind::Span, DeValue::String(text)) => {
                text.parse::<super::Span>().ok().map(|_| Value::from(&**text))
            }
            (Kind::Text, DeValue::String(text)) => Some(Value::from(&**text)),
            _ => None,
        };
        if converted.is_none() {
            let hint = match kind {
                Kind::Section(_) => format!("head it with `[{path}]`"),
                Kind::Sections(_) => format!("head each of them with `[[{path}]]`"),
                Kind::Choice(words) => nearest(value.get_ref(), words),
                _ => String::new(),
            };
            let found = excerpt(self.text.get(value.span()).unwrap_or_default());
            let message = match value.get_ref() {
                DeValue::Table(_) => format!("`{path}` must be {kind}, not a table"),
                _ => format!("`{path}` must be {kind}, not `{found}`"),
            };
            self.problem(Some(line), message, hint);
        }
        converted
    }

    fn list<'v, 'i: 'v>(
        &mut self,
        items: impl Iterator<Item = &'v Spanned<DeValue<'i>>>,
        path: &str,
        mut item: impl FnMut(&mut Self, &Spanned<DeValue<'_>>, &str, usize) -> Option<Value>,
    ) -> Option<Value> {
        let mut list = Vec::new();
        for (i, value) in items.enumerate() {
            let (path, line) = (format!("{path}[{i}]"), self.line(&value.span()));
            self.lines.insert(path.clone(), line);
            list.push(item(self, value, &path, line)?);
        }
        Some(Value::Array(list))
    }

    /// One of several sections. Its defaults are those of the struct.
    fn item_section(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        keys: &[Node],
        path: &str,
        line: usize,
    ) -> Option<Value> {
        if let DeValue::Table(table) = value.get_ref() {
            let base = keys.iter().map(|key| (key.name.clone(), key.default.clone())).collect();
            return Some(self.section(table, keys, Value::Object(base), path));
        }
        let found = excerpt(self.text.get(value.span()).unwrap_or_default());
        self.problem(Some(line), format!("`{path}` must be a table, not `{found}`"), "");
        None
    }

    /// What no schema says: values that only make sense together, or have a form of their own.
    fn check(&mut self, config: &Config) {
        if config.data_dir.as_os_str().is_empty() {
            let message = "`data_dir` must name a directory, not nothing";
            self.problem(self.at("data_dir"), message, "leave it out for the default");
        }
        self.check_hosts(config);
        self.check_listen(config);
        self.check_lj(config);
        self.check_webhooks(config);
        let (certificate, key) = (config.tls.certificate.is_some(), config.tls.key.is_some());
        if certificate != key {
            let (there, missing) = match certificate {
                true => ("tls.certificate", "tls.key"),
                false => ("tls.key", "tls.certificate"),
            };
            let message = format!("`{there}` is set, but `{missing}` is not");
            let hint = format!("set `{missing}` too, or neither for a self-signed certificate");
            self.problem(self.at(there), message, hint);
        }
        let (ttl, max) = (config.tokens.ttl, config.tokens.max_ttl);
        if max != super::Span::OFF && (ttl == super::Span::OFF || ttl > max) {
            let message = format!("`tokens.ttl` (`{ttl}`) exceeds `tokens.max_ttl` (`{max}`)");
            let line = self.at("tokens.ttl").or_else(|| self.at("tokens.max_ttl"));
            self.problem(line, message, "lower `tokens.ttl`, or raise `tokens.max_ttl`");
        }
        let (exact, network) = (config.privacy.address_exact, config.privacy.address_network);
        if network != super::Span::OFF && exact > network {
            let message = format!(
                "`privacy.address_exact` (`{exact}`) exceeds `privacy.address_network` (`{network}`)"
            );
            let line =
                self.at("privacy.address_exact").or_else(|| self.at("privacy.address_network"));
            self.problem(line, message, "lower the first, or raise the second");
        }
        for (i, account) in config.history.nolog.iter().enumerate() {
            if !Jid::parse(account).is_ok_and(|jid| jid.local().is_some() && jid.is_bare()) {
                let path = format!("history.nolog[{i}]");
                let message = format!("`{path}`: `{account}` is not the address of an account");
                self.problem(self.at(&path), message, "write it as in `probe@example.org`");
            }
        }
        if let Some(part) = config.log.level.split(',').find(|part| !is_directive(part.trim())) {
            let message = format!("`log.level`: `{part}` is not a log level");
            let levels = LEVELS.join("`, `");
            let hint =
                format!("write one of `{levels}`, or a part and its level as in `net=debug`");
            self.problem(self.at("log.level"), message, hint);
        }
    }

    fn check_hosts(&mut self, config: &Config) {
        if config.host.is_empty() {
            let hint = "add `[[host]]` with `name = \"your.domain\"`, or leave `host` out";
            self.problem(self.at("host"), "there must be at least one `[[host]]`", hint);
        }
        let mut seen = Vec::new();
        for (i, host) in config.host.iter().enumerate() {
            let name = &host.name;
            let path = format!("host[{i}].name");
            let line = self.at(&path).or_else(|| self.at(&format!("host[{i}]")));
            let why = match Jid::parse(name) {
                Ok(jid) if jid.local().is_some() || jid.resource().is_some() => {
                    "it is a whole JID".into()
                }
                Ok(jid) if seen.contains(&jid) => {
                    let message = format!("host `{name}` is there twice");
                    self.problem(line, message, "remove one of them");
                    continue;
                }
                Ok(jid) => {
                    seen.push(jid);
                    continue;
                }
                Err(why) => why.to_string(),
            };
            let message = format!("`{path}`: `{name}` is not a domain name: {why}");
            self.problem(line, message, "write the part of a JID behind the `@`");
        }
    }

    fn check_listen(&mut self, config: &Config) {
        let mut seen: Vec<SocketAddr> = Vec::new();
        let listen = &config.listen;
        let doors = [
            ("listen.c2s", &listen.c2s),
            ("listen.c2s_tls", &listen.c2s_tls),
            ("listen.http", &listen.http),
            ("listen.https", &listen.https),
        ];
        for (path, text) in doors.iter().flat_map(|(path, list)| {
            list.iter().enumerate().map(move |(i, text)| (format!("{path}[{i}]"), text))
        }) {
            let line = self.at(&path);
            match text.parse::<SocketAddr>() {
                // Port 0 is another one each time.
                Ok(address) if address.port() != 0 && seen.contains(&address) => {
                    let message = format!("`{path}`: `{text}` is listened on already");
                    self.problem(line, message, "give each its own port");
                }
                Ok(address) if path.starts_with("listen.http[") && !address.ip().is_loopback() => {
                    let message = format!("`{path}`: `{text}` is no loopback address");
                    let hint = "passwords and tokens travel here in the clear; listen there under \
                                `listen.https`, or put a proxy in front";
                    self.problem(line, message, hint);
                }
                Ok(address) => seen.push(address),
                Err(_) => {
                    let message = format!("`{path}`: `{text}` is not an IP address and a port");
                    let hint = "write them as in `0.0.0.0:5222`, `[::]:5222` or `127.0.0.1:5222`";
                    self.problem(line, message, hint);
                }
            }
        }
        for (list, networks) in
            [("listen.proxies", &listen.proxies), ("http.proxies", &config.http.proxies)]
        {
            for (i, text) in networks.iter().enumerate() {
                let path = format!("{list}[{i}]");
                if let Err(why) = network(text) {
                    let hint = "name the balancers alone, and as exactly as you can";
                    self.problem(self.at(&path), format!("`{path}`: {why}"), hint);
                }
            }
        }
        if config.listen.proxies_tls && config.listen.proxies.is_empty() {
            let message = "`listen.proxies_tls` is set, but `listen.proxies` is empty";
            let hint = "name the balancers whose word on TLS counts, or leave it out";
            self.problem(self.at("listen.proxies_tls"), message, hint);
        }
    }

    fn check_lj(&mut self, config: &Config) {
        let name = &config.lj.host;
        let served = config.host.iter().any(|host| host.name == *name);
        if !name.is_empty() && !served {
            let message = format!("`lj.host`: `{name}` is not served here");
            self.problem(self.at("lj.host"), message, "write it as it is under `[[host]]`");
        }
        if config.lj.enabled && config.listen.http.is_empty() && config.listen.https.is_empty() {
            let message = "`lj.enabled` is set, but nothing listens for HTTP";
            self.problem(self.at("lj.enabled"), message, "set `listen.https`, or leave it out");
        }
    }

    fn check_webhooks(&mut self, config: &Config) {
        for (i, webhook) in config.webhook.iter().enumerate() {
            let Webhook { name, url, key, reasons, .. } = webhook;
            let mut wrong = |field: &str, what: String, hint: &str| {
                let path = format!("webhook[{i}].{field}");
                let line = self.at(&path).or_else(|| self.at(&format!("webhook[{i}]")));
                self.problem(line, format!("`{path}`{what}"), hint);
            };
            let letter = |c: char| c.is_ascii_alphanumeric() || c == '-';
            if name.is_empty() || !name.chars().all(letter) {
                let hint = "name it as in `billing`: letters, digits and hyphens";
                wrong("name", format!(": `{name}` is no such name"), hint);
            } else if config.webhook.iter().take(i).any(|other| other.name == *name) {
                wrong("name", format!(": `{name}` is there twice"), "give each its own name");
            }
            let local = ["http://127.0.0.1", "http://[::1]", "http://localhost"];
            let after = |start: &&str| {
                url.strip_prefix(*start)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/']))
            };
            if !url.starts_with("https://") && !local.iter().any(after) {
                let hint = "write it as in `https://example.org/events`; plain `http:` only to this machine";
                wrong("url", format!(": `{url}` is no such address"), hint);
            }
            if key.expose().chars().count() < 32 {
                let hint = "make one with `openssl rand -hex 32`";
                wrong("key", " has less than 32 characters".into(), hint);
            }
            for reason in reasons.iter().filter(|reason| !Reason::NAMES.contains(&reason.as_str()))
            {
                let names = Reason::NAMES.join("`, `");
                wrong(
                    "reasons",
                    format!(": `{reason}` is no reason"),
                    &format!("there are `{names}`"),
                );
            }
        }
    }

    fn at(&self, path: &str) -> Option<usize> {
        self.lines.get(path).copied()
    }

    fn line(&self, span: &Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    fn problem(
        &mut self,
        line: Option<usize>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.problems.push(Problem { line, message: message.into(), hint: hint.into() });
    }
}

/// The levels of a log, as `tracing` has them.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Whether it is a level, or a part of the server and its level. A part alone would mean `trace`,
/// and so would a level with a typing error: it is not taken.
fn is_directive(text: &str) -> bool {
    let (part, level) = text.split_once('=').unwrap_or(("all", text));
    let target = |c: char| c.is_alphanumeric() || matches!(c, '_' | ':' | '-');
    !part.is_empty() && part.chars().all(target) && LEVELS.contains(&level)
}

/// Which of the words somebody who wrote another may have meant.
fn nearest(written: &DeValue<'_>, words: &[String]) -> String {
    let DeValue::String(written) = written else { return String::new() };
    let near = words.iter().map(|word| (distance(written, word), word)).min();
    match near {
        Some((distance, word)) if is_near(distance, written) => format!("the nearest is `{word}`"),
        _ => String::new(),
    }
}

impl Config {
    /// The group whose name somebody who wrote another may have meant.
    pub(crate) fn nearest_group(&self, written: &str) -> Option<&str> {
        let names: Vec<&str> = self.group.iter().map(|group| &*group.name).collect();
        nearest_word(written, &names)
    }
}

/// Which of the words somebody who wrote another may have meant.
pub(crate) fn nearest_word<'w>(written: &str, words: &[&'w str]) -> Option<&'w str> {
    let near = words.iter().map(|word| (distance(written, word), *word)).min();
    near.filter(|(distance, _)| is_near(*distance, written)).map(|(_, word)| word)
}

/// Whether so many changes to what was written are a slip rather than another word.
fn is_near(distance: usize, written: &str) -> bool {
    distance <= 1 + written.chars().count() / 3
}

/// What somebody who wrote `name` may have meant.
fn suggestion(name: &str, keys: &[Node], path: &str) -> String {
    let section = path.strip_suffix(name).unwrap_or_default();
    let mut elsewhere = Vec::new();
    find(name, &ROOT.keys, "", &mut elsewhere);
    if !elsewhere.is_empty() {
        return format!("there is {}", elsewhere.join(", "));
    }
    let near = keys.iter().map(|key| (distance(name, &key.name), key)).min_by_key(|(d, _)| *d);
    if let Some((distance, key)) = near
        && is_near(distance, name)
    {
        return format!("the nearest known key is `{section}{}`", key.name);
    }
    let known: Vec<_> = keys.iter().map(|key| format!("`{}`", key.name)).collect();
    format!("known here: {}", known.join(", "))
}

fn find(name: &str, keys: &[Node], path: &str, found: &mut Vec<String>) {
    for key in keys {
        if key.name == name {
            found.push(format!("`{path}{name}`"));
        }
        if let Kind::Section(inner) | Kind::Sections(inner) = &key.kind {
            find(name, inner, &format!("{path}{}.", key.name), found);
        }
    }
}

/// How many characters must be added, removed or replaced to get from `a` to `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut next = vec![i + 1];
        for ((to, above), diagonal) in b.iter().zip(row.iter().skip(1)).zip(&row) {
            let left = next.last().copied().unwrap_or_default();
            next.push((diagonal + usize::from(from != *to)).min(above + 1).min(left + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

/// The first line of a value, shortened.
fn excerpt(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= 40 {
        line.into()
    } else {
        line.chars().take(39).chain(['…']).collect()
    }
}

#[cfg(test)]
mod tests;

//! What can be asked for, in the order in which the protocol looks at a request: is there a mode, does it
//! need nobody, who is it, is there maintenance, is the mode known; and only then who can prove it.
//! Each mode is one or two commands of the table.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use server::command::Caller;
use wire::{Jid, Token};

use super::{
    Asked, Door, auth,
    challenge::Scheme,
    cookie::SessionString,
    fault::{Fault, Number},
    is_true,
};
use crate::http::perform;

/// Sessions that one request may name.
const IDS: usize = 100;

type Row = Map<String, Value>;

/// Does what is asked.
pub(super) async fn run(door: &Door, asked: &Asked) -> Result<Row, Fault> {
    let maintenance = &door.api.server.config.lj.maintenance;
    if asked.mode.is_empty() {
        return Err(Fault::with(Number::Missing, "no mode was sent"));
    }
    if asked.mode == "getchallenge" {
        return getchallenge(door, asked);
    }
    let user = auth::user(door, asked)?;
    if !maintenance.is_empty() {
        return Err(Fault::said(Number::Unavailable, maintenance));
    }
    let mode = Mode::parse(&asked.mode).ok_or_else(|| {
        let name: String = asked.mode.chars().take(60).collect();
        Fault::with(Number::Method, name)
    })?;
    version(asked)?;
    if mode == Mode::SessionGenerate {
        auth::private(asked.peer, "sessions are made")?;
    }
    let caller = auth::caller(door, asked, &user).await?;
    let call = Call { door, asked, user, caller };
    match mode {
        Mode::CheckSession => call.checksession().await,
        Mode::Login => call.login().await,
        Mode::SessionExpire => call.sessionexpire().await,
        Mode::SessionGenerate => call.sessiongenerate().await,
    }
}

/// Modes that take a user.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    CheckSession,
    Login,
    SessionExpire,
    SessionGenerate,
}

impl Mode {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "checksession" => Self::CheckSession,
            "login" => Self::Login,
            "sessionexpire" => Self::SessionExpire,
            "sessiongenerate" => Self::SessionGenerate,
            _ => return None,
        })
    }
}

/// Versions 0 and 1 differ in the encoding of text; here it is UTF-8 in both.
fn version(asked: &Asked) -> Result<(), Fault> {
    let version = asked.text("ver");
    match version.as_deref().map(str::trim).unwrap_or_default() {
        "" | "0" | "1" => Ok(()),
        _ => Err(Number::Version.into()),
    }
}

fn getchallenge(door: &Door, asked: &Asked) -> Result<Row, Fault> {
    let server = &door.api.server;
    let wanted = asked.text("auth_scheme");
    let scheme = Scheme::parse(wanted.as_deref().unwrap_or("c0"))
        .ok_or_else(|| Fault::with(Number::Argument, "auth_scheme is c0 or c1"))?;
    let off = || Fault::with(Number::Restricted, "challenges are turned off");
    let life = server.config.lj.challenge.get().ok_or_else(off)?;
    let now = server.clock.now();
    let seconds = now.0 / 1_000;
    Ok(fields([
        ("auth_scheme", scheme.as_str().into()),
        ("auth_schemes", Scheme::ALL.map(Scheme::as_str).join(",").into()),
        ("challenge", door.challenges.issue(&server.keys, scheme, now, life).into()),
        ("expire_time", (seconds + life).into()),
        ("server_time", seconds.into()),
    ]))
}

fn fields<const N: usize>(fields: [(&str, Value); N]) -> Row {
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A request of somebody who has proved to be who it is.
struct Call<'a> {
    door: &'a Door,
    asked: &'a Asked,
    user: Jid,
    caller: Caller,
}

impl Call<'_> {
    /// One command of the table, done by the caller.
    async fn perform(&self, name: &'static str, args: Value) -> Result<Vec<Row>, Fault> {
        let args = args.as_object().cloned().unwrap_or_default();
        let (rows, _) = perform(&self.door.api, self.caller.clone(), name, args).await?;
        Ok(rows)
    }

    fn name(&self) -> Value {
        self.user.local().unwrap_or_default().into()
    }

    async fn login(&self) -> Result<Row, Fault> {
        self.perform("whoami", json!({})).await?;
        Ok(fields([("fullname", self.name()), ("name", self.name()), ("username", self.name())]))
    }

    /// What the caller is taken for, and for how long; never a secret.
    async fn checksession(&self) -> Result<Row, Fault> {
        let me = self.perform("whoami", json!({})).await?.into_iter().next().unwrap_or_default();
        let field = |name: &str| me.get(name).cloned().unwrap_or_default();
        Ok(fields([
            ("bound_to", field("bound_to")),
            ("caps", field("rights")),
            ("class", field("class")),
            ("client", field("client")),
            ("expires", field("client_expires")),
            ("expires_in", field("credential_left")),
            ("role", field("role")),
            ("session", field("sid")),
            ("username", self.name()),
            ("via", field("via")),
        ]))
    }

    async fn sessiongenerate(&self) -> Result<Row, Fault> {
        let asked = self.asked;
        let class = asked.text("expiration");
        let class = match class.as_deref().unwrap_or_default() {
            "" => "short",
            class @ ("long" | "once" | "short") => class,
            _ => {
                let detail = "expiration is short, long or once";
                return Err(Fault::with(Number::Argument, detail));
            }
        };
        let mut args =
            json!({ "jid": self.user.as_str(), "purpose": server::vault::LJ, "class": class });
        // It was documented by one name, and read by the other.
        if asked.flag("ipfixed") || asked.flag("bindtoip") {
            args["bind-to"] = match asked.peer.address.ip().to_canonical() {
                std::net::IpAddr::V4(address) => address.to_string(),
                // Addresses within such a network change by themselves.
                std::net::IpAddr::V6(address) => format!("{address}/64"),
            }
            .into();
        }
        let rows = self.perform("token mint", args).await?;
        let minted = rows.first().and_then(|row| {
            let token = Token::parse(row.get("token")?.as_str()?).ok()?;
            Some(SessionString::new(row.get("sid")?.as_u64()?, token))
        });
        let minted = minted.ok_or(Number::Internal)?;
        Ok(fields([("ljsession", minted.text().into())]))
    }

    async fn sessionexpire(&self) -> Result<Row, Fault> {
        let ids = self.selected()?;
        if self.asked.flag("expireall") {
            let args = json!({ "selector": [self.user.as_str()], "level": "revoke" });
            self.perform("session end", args).await?;
            return Ok(Row::new());
        }
        if ids.is_empty() {
            return Ok(Row::new());
        }
        // Only the own account is looked at: whatever is not there is unknown.
        let clients = self.perform("client list", json!({ "jid": self.user.as_str() })).await?;
        let named: Vec<(u64, &Value)> = clients
            .iter()
            .filter_map(|client| Some((client.get("sid")?.as_u64()?, client.get("id")?)))
            .filter(|(sid, _)| ids.contains(sid))
            .collect();
        if !named.is_empty() {
            let clients: Vec<&Value> = named.iter().map(|(_, id)| *id).collect();
            self.perform("client revoke", json!({ "client": clients })).await?;
        }
        if !self.asked.flag("verbose") {
            return Ok(Row::new());
        }
        let outcome = |id: &u64| {
            let there = named.iter().any(|(sid, _)| sid == id);
            (id.to_string(), if there { "ended" } else { "unknown" }.into())
        };
        Ok(fields([("outcome", Value::Object(ids.iter().map(outcome).collect()))]))
    }

    /// The numbers of the sessions that are named, in either transport's way.
    fn selected(&self) -> Result<BTreeSet<u64>, Fault> {
        let by_presence = self.door.api.server.config.lj.expire_id_presence;
        let mut texts: Vec<String> = Vec::new();
        for name in self.asked.args.keys() {
            let Some(id) = name.strip_prefix("expire_id_") else { continue };
            if by_presence || self.asked.flag(name) {
                texts.push(id.to_owned());
            }
        }
        match self.asked.args.get("expire") {
            None | Some(Value::Null) => {}
            Some(Value::Array(values)) => texts.extend(values.iter().map(|value| match value {
                Value::String(text) => text.trim().to_owned(),
                other => other.to_string(),
            })),
            Some(Value::String(text)) if !is_true(text) => {}
            Some(_) => return Err(Fault::with(Number::Argument, "expire is no list")),
        }
        if texts.len() > IDS {
            let detail = format!("more than {IDS} sessions are named; expireall ends all");
            return Err(Fault::with(Number::Argument, detail));
        }
        let wrong = |text: &str| {
            let shown: String = text.chars().take(60).collect();
            Fault::with(Number::Argument, format!("`{shown}` is no number of a session"))
        };
        texts.iter().map(|text| text.parse::<u64>().map_err(|_| wrong(text))).collect()
    }
}

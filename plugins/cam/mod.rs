//! Client access management (XEP-0494): the owner of an account sees what has access to it, and takes
//! that away. The same in the namespace of before there was a specification, which Prosody answers to.
//!
//! All of it is the commands `client list`, `client revoke` and `client block`, with their rights, bounds
//! and audit; here is only what that looks like. An account with the rights may address others.

mod listing;

use serde_json::{Map, Value, json};
use server::{
    config::RevokePassword,
    end::NAMESPACE,
    iq::Answer,
    plugin::{Iq, Plugin, Setup, Spec, Target},
};
use wire::{Condition, Jid, StanzaError, Xml};

use crate::command;

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "cam",
    about: "Shows owners what has access to their accounts, and lets them revoke it",
    specs: &[Spec {
        id: "XEP-0494",
        version: "0.1.0",
        title: "Client Access Management",
        note: "For owners, and for whoever has the rights by addressing an account. Also in Prosody's \
               earlier namespace. No `uri`. Clients that know the password: see `clients.revoke_password`",
    }],
    setup,
};

/// A namespace that this is spoken in, and what is particular about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Dialect {
    ns: &'static str,
    /// The child of `<auth/>` for clients with tokens.
    grant: &'static str,
    /// There is a `<permission/>`.
    permission: bool,
}

const CAM: Dialect = Dialect { ns: "urn:xmpp:cam:0", grant: "grant", permission: true };
const EARLIER: Dialect = Dialect {
    ns: "xmpp:prosody.im/protocol/manage-clients",
    grant: "bearer-token",
    permission: false,
};

fn setup(setup: &mut Setup<'_>) {
    setup.host_features(&[CAM.ns]);
    setup.account_features(&[CAM.ns]);
    // The server, asked about nobody in particular, is asked about the account that asks.
    let targets = [Target::Own, Target::Host, Target::Account];
    for dialect in [CAM, EARLIER] {
        setup.iq(&targets, (dialect.ns, "list"), move |iq| match iq.set {
            true => Answer::refuse(Condition::BadRequest),
            false => later(iq, dialect, list),
        });
        setup.iq(&targets, (dialect.ns, "revoke"), move |iq| match iq.set {
            true => later(iq, dialect, revoke),
            false => Answer::refuse(Condition::BadRequest),
        });
    }
}

fn later<F>(iq: &Iq, dialect: Dialect, act: fn(Iq, Dialect) -> F) -> Answer
where
    F: Future<Output = Result<Answer, StanzaError>> + Send + 'static,
{
    let acting = act(iq.clone(), dialect);
    Answer::later(async move { acting.await.unwrap_or_else(Answer::Error) })
}

/// Whose clients are meant.
fn account(iq: &Iq) -> Jid {
    match iq.target {
        Target::Account => iq.to.clone(),
        Target::Host | Target::Own => iq.from.bare(),
    }
}

async fn list(iq: Iq, dialect: Dialect) -> Result<Answer, StanzaError> {
    let account = account(&iq);
    let asked = args(json!({ "jid": account.as_str() }));
    let found = command::run(&iq, "client list", asked).await?;
    if let Err(error) = &found.outcome {
        // Whether there is one is told only to those who may look at all of them.
        let admitted = !error.forbidden && error.retry.is_none();
        let gone = matches!(iq.server.account(account.as_str()).await, Ok(None));
        return Err(match admitted && gone {
            true => Condition::ItemNotFound.into(),
            false => command::refusal(error),
        });
    }
    Ok(Answer::Result(listing::clients(&found.rows, dialect)))
}

async fn revoke(iq: Iq, dialect: Dialect) -> Result<Answer, StanzaError> {
    let payload = iq.frame.payload();
    let wanted = payload.as_ref().and_then(|payload| {
        let reason = payload.el.child("reason", NAMESPACE).map(|reason| reason.text().into_owned());
        Some((payload.el.attr("id")?.into_owned(), reason))
    });
    let (id, reason) = wanted.ok_or(Condition::BadRequest)?;
    // An id is opaque to whoever sends it: one that cannot be is one that there is not.
    let Ok(id) = id.parse::<server::id::ClientId>() else {
        return Err(Condition::ItemNotFound.into());
    };
    let id = id.to_string();
    let shown = command::run(&iq, "client show", args(json!({ "client": id }))).await?;
    shown.outcome.map_err(|error| command::refusal(&error))?;
    let account = account(&iq);
    let known = shown.rows.first().is_some_and(|row| {
        row.get("jid").and_then(Value::as_str) == Some(account.as_str()) && listing::is_in(row)
    });
    if !known {
        return Err(Condition::ItemNotFound.into());
    }
    let with_reason = |mut named: Map<String, Value>| {
        if let Some(reason) = &reason {
            named.insert("reason".into(), reason.as_str().into());
        }
        named
    };
    let named = args(json!({ "client": [id], "unless-password": true }));
    let mut done = command::run(&iq, "client revoke", with_reason(named)).await?;
    if done.outcome.as_ref().is_ok_and(|done| done.fields.contains_key("password")) {
        if iq.server.config.clients.revoke_password == RevokePassword::Reset {
            return Err(reset_required(dialect));
        }
        let named = args(json!({ "client": id }));
        done = command::run(&iq, "client block", with_reason(named)).await?;
    }
    let answer = match &done.outcome {
        Ok(outcome) if outcome.matched => Answer::done(),
        Ok(_) => Answer::refuse(Condition::ItemNotFound),
        Err(error) => Answer::Error(command::refusal(error)),
    };
    Ok(command::answered(&iq, answer, done).await)
}

/// Nothing was done, for nothing but another password keeps this client out.
fn reset_required(dialect: Dialect) -> StanzaError {
    let mut xml = Xml::new();
    xml.open("password-reset-required").ns(dialect.ns);
    StanzaError::new(Condition::ServiceUnavailable)
        .with_text("This client knows the password: change it to keep the client out")
        .with_app(xml.finish())
}

fn args(args: Value) -> Map<String, Value> {
    match args {
        Value::Object(args) => args,
        _ => Map::new(),
    }
}

//! In-band registration (XEP-0077), of which there is what an owner needs who has an account: setting
//! another password and removing the account. They are the commands `user password` and `user delete`,
//! with what these demand: a login with the password not long ago, and from a client that may do it.
//!
//! Nobody gets an account here: nothing is offered to who has not logged in. No data forms: what takes a
//! proof besides takes a new login, not the old password in the clear.

use serde_json::{Map, json};
use server::{
    iq::Answer,
    plugin::{Iq, Plugin, Setup, Spec, Target},
};
use wire::{Condition, El, ErrorType, Jid, StanzaError, Xml};

use crate::command;

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "register",
    about: "Lets owners change the password and remove the account",
    specs: &[Spec {
        id: "XEP-0077",
        version: "2.4",
        title: "In-Band Registration",
        note: "Change of the password and removal of the account, over TLS and after a login with the \
               password not long ago. Nobody can make an account. No data forms, no `code` in errors",
    }],
    setup,
};

const REGISTER: &str = "jabber:iq:register";

fn setup(setup: &mut Setup<'_>) {
    setup.host_features(&[REGISTER]);
    // Clients ask their server; without an addressee, that is the own account.
    setup.iq(&[Target::Host, Target::Own], (REGISTER, "query"), |iq| {
        if !iq.set {
            return registered(iq);
        }
        match Wish::parse(iq) {
            Ok(wish) => {
                let iq = iq.clone();
                Answer::later(async move { wish.fulfil(&iq).await.unwrap_or_else(Answer::Error) })
            }
            Err(error) => Answer::Error(error),
        }
    });
}

/// What is on file, which is not much (section 3.1): there is an account, or nobody could ask.
fn registered(iq: &Iq) -> Answer {
    let mut xml = Xml::new();
    xml.open("query").ns(REGISTER).open("registered").close();
    if iq.server.config.registration.change_password {
        xml.leaf("instructions", "Send your username and a new password to change the password");
    }
    xml.leaf("username", iq.from.local().unwrap_or_default()).open("password").close();
    Answer::Result(xml.finish())
}

/// What an owner asks for.
enum Wish {
    /// Another password.
    Password(String),
    /// To have no account any more.
    Remove,
}

impl Wish {
    fn parse(iq: &Iq) -> Result<Self, StanzaError> {
        let allowed = &iq.server.config.registration;
        let payload = iq.frame.payload().ok_or(Condition::BadRequest)?;
        let query: &El<'_> = &payload.el;
        if query.child("remove", REGISTER).is_some() {
            // Section 3.2: it stands alone.
            return match (query.children().count(), allowed.remove) {
                (_, false) => Err(Condition::NotAllowed.into()),
                (1, true) => Ok(Self::Remove),
                (_, true) => Err(Condition::BadRequest.into()),
            };
        }
        if !allowed.change_password {
            return Err(Condition::NotAllowed.into());
        }
        let missing = |text: &'static str| StanzaError::new(Condition::BadRequest).with_text(text);
        let field = |name| query.child(name, REGISTER).map(|el| el.text().into_owned());
        let username = field("username").ok_or_else(|| missing("`username` is missing"))?;
        let owner = Jid::from_parts(Some(&username), iq.from.domain(), None);
        if owner.ok() != Some(iq.from.bare()) {
            let text = "`username` is not your own; there are no accounts to be had here";
            return Err(StanzaError::new(Condition::Forbidden).with_text(text));
        }
        // Section 3.3: an empty one is never set.
        match field("password").filter(|password| !password.is_empty()) {
            None => Err(missing("`password` is missing or empty; it stays as it is")),
            Some(_) if iq.session.tls().is_none() => {
                let text = "A password is taken only over TLS";
                let unsafe_channel = StanzaError::new(Condition::NotAuthorized);
                Err(unsafe_channel.with_type(ErrorType::Modify).with_text(text))
            }
            Some(password) => Ok(Self::Password(password)),
        }
    }

    async fn fulfil(self, iq: &Iq) -> Result<Answer, StanzaError> {
        let account = iq.from.bare();
        let mut args = Map::new();
        args.insert("jid".into(), account.as_str().into());
        let name = match self {
            Self::Password(password) => {
                args.insert("password".into(), password.into());
                "user password"
            }
            Self::Remove => {
                let grace = iq.server.config.registration.grace;
                if grace.get().is_some() {
                    args.insert("grace".into(), json!(grace.to_string()));
                }
                "user delete"
            }
        };
        let done = command::run(iq, name, args).await?;
        let answer = match &done.outcome {
            Ok(_) => Answer::done(),
            Err(error) => Answer::Error(command::refusal(error)),
        };
        Ok(command::answered(iq, answer, done).await)
    }
}

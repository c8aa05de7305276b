//! What is seen of an account's sessions at one moment, and how it differs from what was seen before.
//! The version of it is a hash, so that it is the same after a restart of the server if the sessions are.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde_json::Value;
use server::{Server, Session, command::session_row, end::NAMESPACE, id::SessionId};
use sha1::{Digest, Sha1};
use wire::{Jid, Xml};

/// What is told of a session: these fields of `session list`, which do not change by themselves.
const FIELDS: &[&str] = &[
    "id",
    "jid",
    "client",
    "stage",
    "hibernating",
    "frozen",
    "since",
    "mechanism",
    "address",
    "software",
];

/// One session.
struct Seen {
    session: Arc<Session>,
    attributes: Vec<(&'static str, String)>,
}

/// All sessions of an account that have a resource.
#[derive(Default)]
pub struct Sight(BTreeMap<SessionId, Seen>);

impl Sight {
    /// As it is now.
    pub fn of(server: &Server, account: &Jid) -> Self {
        let sessions = server.registry.bound(account.as_str()).into_iter();
        Self(sessions.map(|session| (session.id, Seen::of(session))).collect())
    }

    /// The version.
    pub fn version(&self) -> String {
        let mut hash = Sha1::new();
        for seen in self.0.values() {
            let mut xml = Xml::new();
            seen.write(&mut xml, None);
            hash.update(xml.finish());
        }
        STANDARD.encode(hash.finalize())
    }

    /// All of it.
    pub fn whole(&self) -> Bytes {
        let mut xml = Xml::new();
        xml.open("sessions").ns(NAMESPACE).attr("ver", &self.version());
        self.0.values().for_each(|seen| seen.write(&mut xml, None));
        xml.finish()
    }

    /// What has changed since it was like that; none: nothing has.
    pub fn since(&self, before: &Self) -> Option<Bytes> {
        let mut xml = Xml::new();
        xml.open("changes").ns(NAMESPACE).attr("ver", &self.version());
        let mut any = false;
        for (id, seen) in &self.0 {
            let change = match before.0.get(id) {
                None => "created",
                Some(was) if was.attributes != seen.attributes => "changed",
                Some(_) => continue,
            };
            seen.write(&mut xml, Some(change));
            any = true;
        }
        for (_, gone) in before.0.iter().filter(|(id, _)| !self.0.contains_key(id)) {
            gone.write_end(&mut xml);
            any = true;
        }
        any.then(|| xml.finish())
    }
}

impl Seen {
    fn of(session: Arc<Session>) -> Self {
        let mut row = session_row(&session);
        let attributes = FIELDS.iter().filter_map(|name| {
            let value = match row.remove(*name)? {
                Value::Null => return None,
                Value::String(text) => text,
                other => other.to_string(),
            };
            Some((*name, value))
        });
        Self { attributes: attributes.collect(), session }
    }

    fn write(&self, xml: &mut Xml, change: Option<&str>) {
        xml.open("session").attr_opt("change", &change);
        for (name, value) in &self.attributes {
            xml.attr(name, value);
        }
        xml.close();
    }

    /// With what remains of it: why, and by whom, without a name.
    fn write_end(&self, xml: &mut Xml) {
        xml.open("session").attr("change", "ended");
        for (name, value) in
            self.attributes.iter().filter(|(name, _)| matches!(*name, "id" | "jid"))
        {
            xml.attr(name, value);
        }
        if let Some(record) = self.session.end_record() {
            xml.attr("reason", record.reason.as_str()).attr("by", record.by.kind());
        }
        xml.close();
    }
}

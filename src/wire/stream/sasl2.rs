//! SASL 2 (XEP-0388): what a client asks for together with its login, and the one answer to all of
//! it. Resumption (XEP-0198) comes before binding (XEP-0386), binding before what is enabled with it,
//! and a token for the next time (XEP-0484) last.
//!
//! ```text
//!  proved ─► entered ─► upgrades? ─► resume? ──yes────────────────► token? ─► <success/>, no features
//!                                       └─no─► bind? ─► enable? ──► token? ─► <success/>, features
//! ```

use std::{borrow::Cow, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;

use crate::{
    El, Frame, Jid, Mechanism, SaslFailure, Xml, ns,
    stream::sm::{self, Enable, Enabled, Failed, Resume},
};

/// Tasks that a client may name.
const UPGRADES: usize = 8;

/// Longest text that is taken from a client about itself, in bytes.
const TEXT: usize = 256;

/// What a client says it is: told to its account's owner and to nobody else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agent {
    /// The same for every login of this installation of the software.
    pub id: Option<String>,
    /// The software.
    pub software: Option<String>,
    /// The device that it is on.
    pub device: Option<String>,
}

/// How a token of FAST is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FastUse {
    /// Grows with every attempt, so that nobody can repeat one.
    pub count: Option<u64>,
    /// The token is not wanted any more.
    pub invalidate: bool,
}

/// What a client asks for in `<authenticate/>`, beside the login itself.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// The element itself.
    pub(super) frame: Frame,
    pub(super) agent: Option<Arc<Agent>>,
    pub(super) resume: Option<Resume>,
    /// Bind 2: with the name that the software gives itself.
    pub(super) bind: Option<Option<String>>,
    pub(super) enable: Option<Enable>,
    /// The login itself is one with a token of FAST.
    pub(super) fast: Option<FastUse>,
    /// A token for this mechanism is wanted.
    pub(super) token: Option<Mechanism>,
    /// Tasks that it can do for better keys (XEP-0480).
    pub(super) upgrades: Vec<String>,
    /// The version of the features that the client has in mind (XEP-0509).
    pub(super) version: Option<String>,
}

impl Request {
    /// From the element.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(super) fn of(frame: &Frame) -> Result<Self, &'static str> {
        let root = frame.root();
        let text = |el: El<'_>| Some(el.text().trim().to_owned()).filter(|text| !text.is_empty());
        let mut request = Self {
            frame: frame.clone(),
            agent: None,
            resume: None,
            bind: None,
            enable: None,
            fast: None,
            token: None,
            upgrades: Vec::new(),
            version: None,
        };
        for child in root.children() {
            match (child.local(), &*child.ns()) {
                ("user-agent", ns::SASL2) => {
                    let part = |name| child.child(name, ns::SASL2).and_then(text);
                    let agent = Agent {
                        id: child.attr("id").map(|id| id.trim().to_ascii_lowercase()),
                        software: part("software"),
                        device: part("device"),
                    };
                    let all = [&agent.id, &agent.software, &agent.device];
                    if all.into_iter().flatten().any(|text| text.len() > TEXT) {
                        return Err("<user-agent/> says too much about itself");
                    }
                    if agent.id.as_deref().is_some_and(|id| !is_uuid(id)) {
                        return Err("The id of <user-agent/> is not a UUID");
                    }
                    request.agent = Some(Arc::new(agent));
                }
                ("resume", ns::SM) => {
                    let resume = Resume::of(&child);
                    request.resume = Some(resume.ok_or("<resume/> needs `previd` and `h`")?);
                }
                ("bind", ns::BIND2) => {
                    request.bind = Some(child.child("tag", ns::BIND2).and_then(text));
                    request.enable = child.child("enable", ns::SM).map(|el| Enable::of(&el));
                }
                ("fast", ns::FAST) => {
                    let count = match child.attr("count") {
                        None => None,
                        Some(count) => {
                            let count = count.trim().parse().ok();
                            Some(count.ok_or("The `count` of <fast/> is not a number")?)
                        }
                    };
                    let invalidate = child.attr("invalidate").is_some_and(|yes| sm::is_true(&yes));
                    request.fast = Some(FastUse { count, invalidate });
                }
                ("request-token", ns::FAST) => {
                    let wanted = child.attr("mechanism").and_then(|name| name.parse().ok());
                    // Another family's opens nothing, so there is no token for it.
                    request.token = wanted.filter(|mechanism: &Mechanism| mechanism.is_fast());
                }
                ("upgrade", ns::SASL_UPGRADE) if request.upgrades.len() < UPGRADES => {
                    request.upgrades.extend(text(child));
                }
                ("config-version", ns::IAP) => {
                    request.version = child.attr("value").map(Cow::into_owned);
                }
                _ => {}
            }
        }
        Ok(request)
    }

    /// The initial response.
    ///
    /// # Errors
    /// When it is not base64.
    pub(super) fn initial(&self) -> Result<Option<Vec<u8>>, SaslFailure> {
        match self.frame.root().child("initial-response", ns::SASL2) {
            None => Ok(None),
            Some(response) => decode(&response.text()).map(Some),
        }
    }
}

/// Base64 of a SASL message; nothing is an empty one, as is the `=` of the older profile.
pub(super) fn decode(text: &str) -> Result<Vec<u8>, SaslFailure> {
    match text.trim() {
        "" | "=" => Ok(Vec::new()),
        text => STANDARD.decode(text).map_err(|_| SaslFailure::IncorrectEncoding),
    }
}

/// Eight, four, four, four and twelve hexadecimal digits. Which version it is is the client's affair.
fn is_uuid(text: &str) -> bool {
    let mut groups = text.split('-');
    let fits = |group: Option<&str>, length| {
        group.is_some_and(|group: &str| {
            group.len() == length && group.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    };
    [8, 4, 4, 4, 12].into_iter().all(|length| fits(groups.next(), length))
        && groups.next().is_none()
}

/// A token for the next login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Its text; a secret.
    pub token: String,
    /// When it dies (XEP-0082).
    pub expiry: String,
}

/// Something that a client has to do before its login succeeds (XEP-0388 section 2.6.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its name.
    pub name: &'static str,
    /// What it is, for people.
    pub text: Cow<'static, str>,
    /// What the client gets when it begins: whole elements.
    pub data: Bytes,
}

impl Task {
    /// `<continue/>`: with what the mechanism had to say last, if it has not been said.
    pub(super) fn announce(&self, additional: &[u8]) -> Bytes {
        let mut xml = Xml::new();
        xml.open("continue").ns(ns::SASL2);
        if !additional.is_empty() {
            xml.leaf("additional-data", &STANDARD.encode(additional));
        }
        xml.open("tasks").leaf("task", self.name).close();
        xml.leaf("text", &self.text);
        xml.finish()
    }

    /// `<task-data/>`.
    pub(super) fn begin(&self) -> Bytes {
        let mut xml = Xml::new();
        xml.open("task-data").ns(ns::SASL2).raw(&self.data);
        xml.finish()
    }
}

/// A login that has succeeded, while what came with it is being seen to.
pub(super) struct Outcome {
    pub(super) request: Request,
    pub(super) mechanism: Mechanism,
    /// Bare, or full once it is bound.
    pub(super) jid: Jid,
    pub(super) additional: Vec<u8>,
    /// The id and count of a stream that goes on.
    pub(super) resumed: Option<(String, u32)>,
    pub(super) failed: Option<Failed>,
    /// Bound, with what the features enabled with it have to say.
    pub(super) bound: Option<Bytes>,
    pub(super) enabled: Option<Result<Enabled, Failed>>,
    pub(super) granted: Option<Granted>,
}

impl Outcome {
    pub(super) fn new(
        request: Request,
        mechanism: Mechanism,
        jid: Jid,
        additional: Vec<u8>,
    ) -> Self {
        Self {
            request,
            mechanism,
            jid,
            additional,
            resumed: None,
            failed: None,
            bound: None,
            enabled: None,
            granted: None,
        }
    }

    /// `<success/>`.
    pub(super) fn success(&self) -> Bytes {
        let mut xml = Xml::new();
        xml.open("success").ns(ns::SASL2);
        if !self.additional.is_empty() {
            xml.leaf("additional-data", &STANDARD.encode(&self.additional));
        }
        xml.leaf("authorization-identifier", self.jid.as_str());
        if let Some((previd, h)) = &self.resumed {
            sm::resumed(&mut xml, previd, *h);
        }
        if let Some(failed) = &self.failed {
            failed.write(&mut xml);
        }
        if let Some(features) = &self.bound {
            xml.open("bound").ns(ns::BIND2);
            match &self.enabled {
                Some(Ok(enabled)) => enabled.write(&mut xml),
                Some(Err(failed)) => failed.write(&mut xml),
                None => {}
            }
            xml.raw(features).close();
        }
        if let Some(granted) = &self.granted {
            xml.open("token").ns(ns::FAST);
            xml.attr("token", &granted.token).attr("expiry", &granted.expiry).close();
        }
        xml.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(inside: &str) -> Result<Request, &'static str> {
        let xml = format!(
            "<authenticate xmlns='urn:xmpp:sasl:2' mechanism='PLAIN'>{inside}</authenticate>"
        );
        Request::of(&Frame::parse(xml).expect("is well-formed"))
    }

    #[test]
    fn what_comes_with_a_login_is_read() {
        let all = request(
            "<initial-response>AGE=</initial-response>\
             <user-agent id='D4565FA7-4d72-4749-b3d3-740edbf87770'>\
             <software>S</software><device>D</device></user-agent>\
             <resume xmlns='urn:xmpp:sm:3' previd='p' h='3'/>\
             <bind xmlns='urn:xmpp:bind:0'><tag>T</tag><enable xmlns='urn:xmpp:sm:3' resume='1'/></bind>\
             <fast xmlns='urn:xmpp:fast:0' count='5' invalidate='true'/>\
             <request-token xmlns='urn:xmpp:fast:0' mechanism='HT-SHA-256-NONE'/>\
             <config-version xmlns='urn:xmpp:iap:0' value='v'/>",
        )
        .expect("is right");
        assert_eq!(all.initial(), Ok(Some(b"\0a".to_vec())));
        let agent = all.agent.expect("is named");
        assert_eq!(agent.id.as_deref(), Some("d4565fa7-4d72-4749-b3d3-740edbf87770"));
        assert_eq!((agent.software.as_deref(), agent.device.as_deref()), (Some("S"), Some("D")));
        assert_eq!(all.resume, Some(Resume { previd: "p".into(), h: 3 }));
        assert_eq!(all.bind, Some(Some("T".into())));
        assert_eq!(all.enable, Some(Enable { resume: true, max: None }));
        assert_eq!(all.fast, Some(FastUse { count: Some(5), invalidate: true }));
        assert_eq!(all.token, Some(Mechanism::HtSha256None));
        assert_eq!(all.version.as_deref(), Some("v"));

        let none = request("<request-token xmlns='urn:xmpp:fast:0' mechanism='PLAIN'/>");
        let none = none.expect("is right");
        assert_eq!((none.initial(), none.token, none.bind), (Ok(None), None, None));
    }

    #[test]
    fn nonsense_is_named() {
        for bad in [
            "<resume xmlns='urn:xmpp:sm:3' h='3'/>",
            "<resume xmlns='urn:xmpp:sm:3' previd='p' h='x'/>",
            "<fast xmlns='urn:xmpp:fast:0' count='-1'/>",
            "<fast xmlns='urn:xmpp:fast:0' count='99999999999999999999'/>",
            "<user-agent id='phone'/>",
        ] {
            assert!(request(bad).is_err(), "{bad}");
        }
        let long = format!("<user-agent><software>{}</software></user-agent>", "x".repeat(300));
        assert!(request(&long).is_err());
        let bad = request("<initial-response>!</initial-response>").expect("is read");
        assert_eq!(bad.initial(), Err(SaslFailure::IncorrectEncoding));
    }
}

//! Stream management (XEP-0198) as elements: what a client asks, what it is told. Who may resume
//! what, and what was counted, is the server's business.

use bytes::Bytes;

use crate::{Condition, Frame, StreamCondition, StreamError, Xml, ns};

/// What a client asks of stream management.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Stanzas are to be counted, and perhaps the stream is to be resumable.
    Enable(Enable),
    /// It has handled so many.
    Ack(u32),
    /// It wants to know how many the server has handled.
    Ask,
    /// An earlier stream is to go on.
    Resume(Resume),
}

/// `<enable/>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enable {
    /// Whether the stream is to be resumable.
    pub resume: bool,
    /// For how many seconds at most, if the client says so.
    pub max: Option<u32>,
}

/// `<resume/>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    /// The id of the earlier stream, as the server gave it out.
    pub previd: String,
    /// How many stanzas the client has handled on it.
    pub h: u32,
}

/// Stream management is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enabled {
    /// What resumes the stream, and for how many seconds after it broke; none: nothing does.
    pub resumable: Option<(String, u32)>,
}

/// Stream management refuses something; the stream goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Why.
    pub condition: Condition,
    /// How many stanzas the server had handled on the stream that cannot be resumed, if it knows.
    pub h: Option<u32>,
    /// An application-specific condition, one whole element.
    pub app: Option<Bytes>,
}

impl From<Condition> for Failed {
    fn from(condition: Condition) -> Self {
        Self { condition, h: None, app: None }
    }
}

impl Enable {
    /// From its element, as a child or on its own.
    pub(super) fn of(el: &crate::El<'_>) -> Self {
        let resume = el.attr("resume").is_some_and(|resume| is_true(&resume));
        let max = el.attr("max").and_then(|max| max.trim().parse().ok());
        Self { resume, max }
    }
}

impl Resume {
    /// From its element; none: it says not what it has to.
    pub(super) fn of(el: &crate::El<'_>) -> Option<Self> {
        let h = el.attr("h").and_then(|h| count(&h))?;
        Some(Self { previd: el.attr("previd")?.into_owned(), h })
    }
}

impl Request {
    /// What a first-level element asks; none: it is not of stream management.
    pub(super) fn of(frame: &Frame) -> Option<Result<Self, StreamError>> {
        if frame.ns() != ns::SM {
            return None;
        }
        let root = frame.root();
        let bad =
            |text: String| Some(Err(StreamError::new(StreamCondition::InvalidXml).with_text(text)));
        match frame.local() {
            "enable" => Some(Ok(Self::Enable(Enable::of(&root)))),
            "r" => Some(Ok(Self::Ask)),
            "a" => match root.attr("h").and_then(|h| count(&h)) {
                Some(h) => Some(Ok(Self::Ack(h))),
                None => bad("<a/> says with `h` how many stanzas were handled".into()),
            },
            "resume" => match Resume::of(&root) {
                Some(resume) => Some(Ok(Self::Resume(resume))),
                None => bad("<resume/> needs `previd` and `h`".into()),
            },
            other => bad(format!("<{other}/> is nothing that a client sends")),
        }
    }
}

/// A count of stanzas, modulo 2^32.
fn count(text: &str) -> Option<u32> {
    text.trim().parse().ok()
}

/// A boolean of XML Schema.
pub(super) fn is_true(text: &str) -> bool {
    matches!(text.trim(), "true" | "1")
}

impl Enabled {
    pub(super) fn write(&self, xml: &mut Xml) {
        xml.open("enabled").ns(ns::SM);
        if let Some((id, max)) = &self.resumable {
            xml.attr("resume", "true").attr("id", id).attr("max", &max.to_string());
        }
        xml.close();
    }
}

impl Failed {
    pub(super) fn write(&self, xml: &mut Xml) {
        xml.open("failed").ns(ns::SM).attr_opt("h", &self.h.map(|h| h.to_string()));
        xml.open(self.condition.as_str()).ns(ns::STANZAS).close();
        if let Some(app) = &self.app {
            xml.raw(app);
        }
        xml.close();
    }
}

/// `<resumed/>`: the stream goes on, and the server has handled `h` stanzas on it.
pub(super) fn resumed(xml: &mut Xml, previd: &str, h: u32) {
    xml.open("resumed").ns(ns::SM).attr("previd", previd).attr("h", &h.to_string()).close();
}

/// One element on its own.
pub(super) fn whole(write: impl FnOnce(&mut Xml)) -> Bytes {
    let mut xml = Xml::new();
    write(&mut xml);
    xml.finish()
}

/// `<a/>`: the server has handled `h` stanzas.
#[must_use]
pub fn ack(h: u32) -> Bytes {
    whole(|xml| {
        xml.open("a").ns(ns::SM).attr("h", &h.to_string()).close();
    })
}

/// `<r/>`: how many has the client handled?
#[must_use]
pub const fn ask() -> Bytes {
    Bytes::from_static(b"<r xmlns='urn:xmpp:sm:3'/>")
}

/// The stream error for a client that says that it has handled more than it was sent.
#[must_use]
pub fn too_high(h: u32, sent: u32) -> StreamError {
    let app = whole(|xml| {
        xml.open("handled-count-too-high").ns(ns::SM);
        xml.attr("h", &h.to_string()).attr("send-count", &sent.to_string()).close();
    });
    let text = format!("You acknowledged {h} stanzas, but only {sent} were sent to you so far");
    StreamError::new(StreamCondition::UndefinedCondition).with_text(text).with_app(app)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(xml: &str) -> Option<Result<Request, StreamError>> {
        Request::of(&Frame::parse(xml.to_owned()).expect("is well-formed"))
    }

    #[test]
    fn elements_are_read_as_the_schema_says() {
        let sm = "xmlns='urn:xmpp:sm:3'";
        let enable = |resume, max| Some(Ok(Request::Enable(Enable { resume, max })));
        assert_eq!(request(&format!("<enable {sm}/>")), enable(false, None));
        assert_eq!(request(&format!("<enable {sm} resume='1' max='60'/>")), enable(true, Some(60)));
        assert_eq!(request(&format!("<enable {sm} resume='yes' max='x'/>")), enable(false, None));
        assert_eq!(request(&format!("<a {sm} h='4294967295'/>")), Some(Ok(Request::Ack(u32::MAX))));
        assert_eq!(request(&format!("<r {sm}/>")), Some(Ok(Request::Ask)));
        assert_eq!(request("<r xmlns='urn:other'/>"), None);
        for bad in ["a", "a h=''", "a h='-1'", "a h='4294967296'", "resume h='1'", "resumed"] {
            let (name, rest) = bad.split_once(' ').unwrap_or((bad, ""));
            let refused = request(&format!("<{name} {sm} {rest}/>"));
            assert!(matches!(refused, Some(Err(_))), "{bad}");
        }
    }

    #[test]
    fn what_is_written_is_what_the_specification_shows() {
        assert_eq!(&*ack(7), b"<a xmlns='urn:xmpp:sm:3' h='7'/>");
        let enabled = Enabled { resumable: Some(("x<".into(), 60)) };
        assert_eq!(
            &*whole(|xml| enabled.write(xml)),
            b"<enabled xmlns='urn:xmpp:sm:3' resume='true' id='x&lt;' max='60'/>"
        );
        let failed = Failed { h: Some(3), ..Condition::ItemNotFound.into() };
        assert_eq!(
            &*whole(|xml| failed.write(xml)),
            b"<failed xmlns='urn:xmpp:sm:3' h='3'>\
              <item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>"
        );
        let error = too_high(10, 8).to_xml();
        let error = String::from_utf8_lossy(&error);
        assert!(error.contains("<undefined-condition"), "{error}");
        assert!(error.contains("h='10' send-count='8'"), "{error}");
    }
}

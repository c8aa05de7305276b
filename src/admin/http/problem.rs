//! Problem documents (RFC 9457): what every error of the HTTP face looks like. One table of kinds: the
//! `type` is stable and for programs, `detail` and `hint` are for people.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};
use server::command::{CommandError, ErrorKind};

/// The media type.
pub(super) const MEDIA_TYPE: &str = "application/problem+json";

macro_rules! kinds {
    ($($variant:ident $name:literal $status:ident $title:literal;)*) => {
        /// What kind of problem it is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Kind {
            $($variant,)*
        }

        impl Kind {
            /// All of them.
            pub(super) const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The last part of its `type`.
            pub(super) fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The status of the answer.
            pub(super) fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)* }
            }

            /// What it is, in words.
            pub(super) fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
        }
    };
}

kinds! {
    Failed "failed" CONFLICT "It could not be done";
    Forbidden "forbidden" FORBIDDEN "The caller may not do this";
    Gone "token-over" UNAUTHORIZED "The token is over";
    Internal "internal" INTERNAL_SERVER_ERROR "The server failed";
    MediaType "media-type" UNSUPPORTED_MEDIA_TYPE "The body is of another media type";
    Method "method" METHOD_NOT_ALLOWED "This is not done by this method";
    NotFound "nothing-matched" NOT_FOUND "There is nothing that it could be done to";
    Nowhere "no-such-path" NOT_FOUND "There is nothing at this path";
    Refused "refused" FORBIDDEN "The token's owner or client may not come";
    Throttled "throttled" TOO_MANY_REQUESTS "Too many requests";
    TooLarge "too-large" PAYLOAD_TOO_LARGE "The body is too large";
    Unauthorized "unauthorized" UNAUTHORIZED "A token is needed";
    Unavailable "unavailable" SERVICE_UNAVAILABLE "The server cannot do this now";
    Usage "usage" BAD_REQUEST "The request is wrong";
}

impl Kind {
    /// Of a command's refusal or failure.
    fn of(error: &CommandError) -> Self {
        match error.kind() {
            ErrorKind::Failed => Self::Failed,
            ErrorKind::Forbidden | ErrorKind::Login => Self::Forbidden,
            ErrorKind::Internal => Self::Internal,
            ErrorKind::Throttled => Self::Throttled,
            ErrorKind::Usage => Self::Usage,
        }
    }
}

/// The status of an answer that tells a command's refusal or failure.
pub(crate) fn status_of(error: &CommandError) -> StatusCode {
    Kind::of(error).status()
}

/// An error as it goes out.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    kind: Kind,
    detail: String,
    hint: String,
    /// Seconds.
    retry: Option<u64>,
    /// What else the headers say of it: `WWW-Authenticate`.
    challenge: Option<String>,
    /// What else is known of it.
    fields: Box<Map<String, Value>>,
}

impl Problem {
    pub(super) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        let (detail, hint) = (detail.into(), String::new());
        Self { kind, detail, hint, retry: None, challenge: None, fields: Box::default() }
    }

    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: hint.into(), ..self }
    }

    pub(super) fn retry(self, seconds: u64) -> Self {
        Self { retry: Some(seconds), ..self }
    }

    pub(super) fn challenge(self, challenge: impl Into<String>) -> Self {
        Self { challenge: Some(challenge.into()), ..self }
    }

    pub(super) fn with(self, fields: Map<String, Value>) -> Self {
        Self { fields: Box::new(fields), ..self }
    }

    pub(super) fn nowhere() -> Self {
        let hint = format!("`{}/openapi.json` has all paths", super::ROOT);
        Self::new(Kind::Nowhere, "nothing is served at this path").hint(hint)
    }

    pub(super) fn method() -> Self {
        let detail = "what only looks is asked for by GET, what changes something by POST";
        Self::new(Kind::Method, detail)
    }
}

impl From<CommandError> for Problem {
    fn from(error: CommandError) -> Self {
        let kind = Kind::of(&error);
        let challenge = error.scope.map(|scope| {
            format!("Bearer realm=\"usher\", error=\"insufficient_scope\", scope=\"{scope}\"")
        });
        Self { retry: error.retry, challenge, ..Self::new(kind, error.message).hint(error.hint) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self { kind, detail, hint, retry, challenge, fields: more } = self;
        let status = kind.status();
        let mut document = json!({
            "type": format!("urn:usher:problem:{}", kind.name()),
            "title": kind.title(),
            "status": status.as_u16(),
            "detail": detail,
        });
        if let Some(fields) = document.as_object_mut() {
            if !hint.is_empty() {
                fields.insert("hint".into(), Value::from(hint));
            }
            // What the standard has a name for stays what it is.
            let more = (*more).into_iter().filter(|(name, _)| !fields.contains_key(name));
            let more: Vec<_> = more.collect();
            fields.extend(more);
        }
        let mut response = (status, document.to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if let Some(seconds) = retry {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(Ok(value)) = challenge.map(HeaderValue::try_from) {
            headers.insert(header::WWW_AUTHENTICATE, value);
        }
        response
    }
}

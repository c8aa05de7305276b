//! The page between a button and what it does: what would happen to whom, why, and the password if it
//! takes a recent one. And the page after it, which says what has happened.

use askama::Template;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use server::{bearer::Peer, command::Done};
use wire::Secret;

use super::{
    form::Fields,
    page::{Failure, Frame, Prose, Refusal, render},
    table::{Cell, Table},
    visitor::Visitor,
};
use crate::http::Api;

/// The field that tells a form that is meant from one that only asks.
pub(super) const SURE: &str = "sure";

/// A question.
#[derive(Template)]
#[template(path = "confirm.html")]
pub(super) struct Confirm {
    pub(super) frame: Frame,
    pub(super) lead: String,
    /// Whom it is about.
    pub(super) table: Option<Table>,
    /// Where it is sent.
    pub(super) action: String,
    /// What is settled already.
    pub(super) hidden: Vec<(String, String)>,
    /// Whether a reason is asked for; true: it has to be given.
    pub(super) reason: Option<bool>,
    pub(super) given_reason: String,
    /// One of these ways: name, value, words. The first is chosen.
    pub(super) choices: Vec<(&'static str, &'static str, &'static str)>,
    /// Whether the password was shown too long ago for it.
    pub(super) password: bool,
    pub(super) button: String,
    pub(super) back: String,
    pub(super) failure: Option<Failure>,
}

impl Confirm {
    pub(super) fn new(frame: Frame, action: impl Into<String>, back: &str) -> Self {
        Self {
            frame,
            lead: String::new(),
            table: None,
            action: action.into(),
            hidden: Vec::new(),
            reason: None,
            given_reason: String::new(),
            choices: Vec::new(),
            password: false,
            button: "Go on".into(),
            back: back.into(),
            failure: None,
        }
    }

    fn lead(&self) -> Prose<'_> {
        Prose(&self.lead)
    }
}

/// What became of it.
#[derive(Template)]
#[template(path = "done.html")]
pub(super) struct Outcome {
    pub(super) frame: Frame,
    pub(super) message: String,
    pub(super) table: Option<Table>,
    pub(super) back: String,
}

impl Outcome {
    pub(super) fn of(frame: Frame, done: &Done, table: Option<Table>, back: &str) -> Response {
        let mut message = done.message.clone();
        if message.is_empty() {
            message = "done".into();
        }
        let status = if done.matched { StatusCode::OK } else { StatusCode::NOT_FOUND };
        let page = Self { frame, message, table, back: back.into() };
        render(status, &page)
    }

    fn message(&self) -> Prose<'_> {
        Prose(&self.message)
    }
}

/// Takes the password that came with a form, if one did; what was wrong with it.
///
/// # Errors
/// A page, if it is not to be tried again now.
pub(super) async fn prove(
    api: &Api,
    visitor: &Visitor,
    peer: Peer,
    fields: &Fields,
) -> Result<Option<Failure>, Response> {
    let password = fields.text("password");
    let Some(me) = visitor.caller.account().filter(|_| !password.is_empty()) else {
        return Ok(None);
    };
    let password = Secret::new(password.as_bytes().to_vec());
    match api.server.prove_again(peer.address, me, password).await {
        Ok(()) => Ok(None),
        Err(denied) => match (denied.failure, denied.text) {
            (wire::SaslFailure::TemporaryAuthFailure, None) => {
                Err(Refusal::unavailable().into_response())
            }
            (_, text) => Ok(Some(Failure::new(
                text.unwrap_or_else(|| "This is not the password".into()),
                "Nothing was done.",
            ))),
        },
    }
}

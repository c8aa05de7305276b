//! Bodies that have to come in time, however they are cut up: who sends a byte now and then holds a place
//! as long as who sends none.

use std::{
    io::{self, ErrorKind},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    BoxError,
    body::{Body, Bytes, HttpBody},
};
use tokio::time::{Sleep, sleep};

/// A body that fails when its time is over.
pub(super) struct InTime {
    body: Body,
    /// Made when the body is first waited for: most requests have none.
    over: Option<Pin<Box<Sleep>>>,
    time: Duration,
}

impl InTime {
    pub(super) fn new(body: Body, time: Duration) -> Self {
        Self { body, over: None, time }
    }
}

impl HttpBody for InTime {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, BoxError>>> {
        let Self { body, over, time } = &mut *self;
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let over = over.get_or_insert_with(|| Box::pin(sleep(*time)));
        match over.as_mut().poll(cx) {
            Poll::Ready(()) => {
                let late = io::Error::new(ErrorKind::TimedOut, "the body took too long");
                Poll::Ready(Some(Err(late.into())))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

//! Bytes on their way to one peer, written with as few system calls as possible.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

/// Pieces per write; more bring nothing.
const PIECES: usize = 32;

/// What waits to be written, in pieces that are shared with other receivers and never copied.
#[derive(Default)]
pub(crate) struct Outbox {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    /// Something was written that the transport may still hold.
    unflushed: bool,
}

impl Outbox {
    pub(crate) fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.bytes += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// Bytes that were not handed to the transport yet.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether everything has left.
    pub(crate) fn is_flushed(&self) -> bool {
        self.pieces.is_empty() && !self.unflushed
    }

    /// Writes until everything has left or the peer takes no more. Gives the bytes written.
    pub(crate) fn poll_write<T: AsyncWrite + Unpin>(
        &mut self,
        to: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.pieces.is_empty() {
            let mut slices = [IoSlice::new(&[]); PIECES];
            let mut count = 0;
            for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
                *slice = IoSlice::new(piece);
                count += 1;
            }
            let written = Pin::new(&mut *to).poll_write_vectored(cx, &slices[..count]);
            let written = ready!(written)?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.advance(written);
        }
        // An idle connection keeps no ring.
        self.pieces = VecDeque::new();
        if self.unflushed {
            ready!(Pin::new(to).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        while written > 0 {
            let Some(first) = self.pieces.front_mut() else { return };
            if first.len() > written {
                first.advance(written);
                return;
            }
            written -= first.len();
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Takes so many bytes per write, then refuses once.
    struct Narrow {
        width: usize,
        taken: Vec<u8>,
        refuse: bool,
    }

    impl AsyncWrite for Narrow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.refuse = !self.refuse;
            if self.refuse {
                return Poll::Pending;
            }
            let count = bytes.len().min(self.width);
            self.taken.extend_from_slice(&bytes[..count]);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn writes_all_bytes_in_order_however_narrow_the_way() {
        for width in 1..9 {
            let mut to = Narrow { width, taken: Vec::new(), refuse: false };
            let mut outbox = Outbox::default();
            for piece in ["ab", "", "cdef", "g"] {
                outbox.push(Bytes::from_static(piece.as_bytes()));
            }
            assert_eq!(outbox.bytes(), 7);
            let mut cx = Context::from_waker(Waker::noop());
            while outbox.poll_write(&mut to, &mut cx).is_pending() {}
            assert_eq!(to.taken, b"abcdefg");
            assert!(outbox.is_flushed() && outbox.bytes() == 0);
        }
    }
}

//! LiveJournal's protocol at its two addresses: the transcripts of `tests/lj`, and what becomes of
//! sessions, tokens and accounts by what is asked there.

mod effects;
mod program;
mod transcript;

//! The faces of the command table ([`server::command`]): what an administrator sees and types.
//!
//! ```text
//!   usher session end …          usher console            any program
//!          │                          │                        │
//!         cli ──► call ◄────────── console                     │
//!                  │ ▲                                         │
//!                  ▼ └── render                                │
//!               client ──── one JSON object per line ──────────┴──► socket ──► server::command
//! ```
//!
//! Over HTTP, `http` makes an API of the same table, and `web` pages for people.
//!
//! Deliberately absent: what a command does. A command, its arguments and its columns are declared
//! once, in the table, and parser, help, completion, prompt and documentation are made from it.
#![forbid(unsafe_code)]

pub mod call;
pub mod cli;
pub mod client;
mod complete;
pub mod console;
pub mod docs;
mod history;
pub mod http;
mod lj;
pub mod render;
mod run;
mod secret;
mod sheet;
pub mod socket;
mod web;

pub use self::run::{Next, run};

//! The integration tests: one binary, so that everything is linked once.
//!
//! ```text
//!  tests/scripts/*.script ─► script ─► dialogue ─┬─► against_machine  (wire alone)
//!                             xml, scram ┘       └─► against_server   (world: everything, sockets)
//!  world ─► sessions, deadlines, lists, ends, pace, changes, matrix, churn, rights, rivals,
//!           rodauth, seeds, adhoc; cam, register, feed: what owners do from their clients
//!  parity: the same by every way to give a command
//!  managed ─► reconnect, resumption, cuts, cut_bytes, deaths, handover, restarts, next_login,
//!             returns: streams that are resumed, FAST
//!  api: the HTTP face   web, web_admin: its pages   webhooks: programs that are told of ends
//!  lj: LiveJournal's protocol, with tests/lj/*.lj
//!  walls: what may depend on what   rows: which test proves what was asked for
//! ```
#![forbid(unsafe_code)]

mod adhoc;
mod against_machine;
mod against_server;
mod api;
mod audit;
mod bounds;
mod cam;
mod changes;
mod churn;
mod client_commands;
mod clients;
mod crash;
mod cut_bytes;
mod cuts;
mod deadlines;
mod deaths;
mod dialogue;
mod docs;
mod dormant;
mod ending;
mod ends;
mod faults;
mod feed;
mod flights;
mod handover;
mod history;
mod kills;
mod leave;
mod lists;
mod lj;
mod managed;
mod matrix;
mod moving;
mod next_login;
mod notices;
mod pace;
mod parity;
mod proxy;
mod rates;
mod reauth;
mod reconnect;
mod register;
mod restarts;
mod resumption;
mod returns;
mod rights;
mod rivals;
mod rodauth;
mod rows;
mod scram;
mod script;
mod seeds;
mod sessions;
mod stores;
mod tasks;
mod throttle;
mod walls;
mod web;
mod web_admin;
mod webhooks;
mod world;
mod xml;

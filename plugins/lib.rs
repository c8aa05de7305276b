//! Features, one file or folder each. This is their table of contents: the order is the order in
//! which they are asked, and everything else about a feature is in its own file.
//!
//! A plugin sees `server` and `wire`, never sockets, SQL or the ways to administer.
#![forbid(unsafe_code)]

pub mod adhoc;
pub mod cam;
pub mod caps;
pub mod carbons;
mod command;
pub mod csi;
pub mod disco;
pub mod feed;
pub mod offline;
pub mod ping;
pub mod presence;
pub mod register;
pub mod roster;
mod specs;
#[cfg(test)]
mod testing;
pub mod time;
pub mod version;

use server::plugin::Plugin;

pub use specs::{CORE_SPECS, protocol_markdown};

/// All plugins.
pub static ALL: &[Plugin] = &[
    roster::PLUGIN,
    presence::PLUGIN,
    offline::PLUGIN,
    carbons::PLUGIN,
    csi::PLUGIN,
    cam::PLUGIN,
    feed::PLUGIN,
    register::PLUGIN,
    ping::PLUGIN,
    version::PLUGIN,
    time::PLUGIN,
    adhoc::PLUGIN,
    disco::PLUGIN,
    // Last: it announces a hash of what the others have registered.
    caps::PLUGIN,
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn plugins_have_names_of_their_own_and_say_what_they_do() {
        let names: BTreeSet<_> = ALL.iter().map(|plugin| plugin.name).collect();
        assert_eq!(names.len(), ALL.len());
        for plugin in ALL {
            assert!(!plugin.about.is_empty() && !plugin.about.ends_with('.'), "{}", plugin.name);
            for spec in plugin.specs {
                assert!(spec.id.starts_with("XEP-") != spec.version.is_empty(), "{}", spec.id);
            }
        }
        assert_eq!(ALL.last().map(|plugin| plugin.name), Some("caps"));
    }
}

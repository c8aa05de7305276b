//! The generated parts of `doc/` are what the code says. `USHER_BLESS=1` writes them anew.

use std::{fs, path::Path};

fn generated(file: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("doc").join(file);
    if std::env::var_os("USHER_BLESS").is_some() {
        fs::write(&path, text).expect("doc/ can be written");
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == text,
        "doc/{file} is stale; write it anew with: USHER_BLESS=1 cargo test --test it docs"
    );
}

#[test]
fn commands() {
    let commands: Vec<_> = server::command::table().collect();
    generated("reference/commands.md", &admin::docs::commands_markdown(&commands));
    let openapi = serde_json::to_string_pretty(&admin::http::openapi::document());
    generated("reference/openapi.json", &format!("{}\n", openapi.expect("can be written")));
    generated("reference/rights.md", &admin::docs::rights_markdown(&commands));
}

#[test]
fn metrics() {
    generated("reference/metrics.md", &server::metrics::Metrics::reference());
}

#[test]
fn the_dashboard_asks_for_metrics_that_are_there() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("doc/grafana.json");
    let text = fs::read_to_string(path).expect("is there");
    let board: serde_json::Value = serde_json::from_str(&text).expect("is JSON");
    let reference = server::metrics::Metrics::reference();
    let known: Vec<_> = reference.split('`').filter(|name| name.starts_with("usher_")).collect();
    let mut asked = Vec::new();
    for panel in board["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().expect("targets") {
            let expr = target["expr"].as_str().expect("an expression");
            let word = |c: char| !c.is_ascii_alphanumeric() && c != '_';
            let names = expr.split(word).filter(|name| name.starts_with("usher_"));
            asked.extend(names.map(|name| {
                let name = name.strip_suffix("_bucket").unwrap_or(name);
                assert!(known.contains(&name), "{name} in {expr}");
                name.to_owned()
            }));
        }
    }
    for name in known {
        assert!(asked.iter().any(|asked| asked == name), "{name} is shown nowhere");
    }
}

#[test]
fn configuration() {
    generated("reference/configuration.md", &server::config::reference());
}

#[test]
fn protocol() {
    generated("protocol.md", &plugins::protocol_markdown());
}

#[test]
fn the_socket_unit_has_the_addresses_that_the_server_listens_on() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("doc/usher.socket");
    let text = fs::read_to_string(path).expect("is there");
    let streams: Vec<_> =
        text.lines().filter_map(|line| line.strip_prefix("ListenStream=")).collect();
    let listen = server::config::Config::default().listen;
    assert_eq!(streams, [listen.c2s, listen.c2s_tls].concat());
}

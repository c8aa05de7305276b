//! The files that pages need: in the binary, and named by what is in them, so that a browser keeps each
//! for good and never has an old one. Nothing comes from anywhere else.

use std::{
    hash::{DefaultHasher, Hasher},
    sync::LazyLock,
};

use axum::{
    Router,
    extract::Path,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderValue, header};

use super::page::nowhere;
use crate::http::Api;

/// One file.
pub(super) struct Asset {
    /// Where it is.
    pub(super) path: String,
    media: &'static str,
    text: &'static str,
}

/// All of them.
pub(super) struct Assets {
    pub(super) style: Asset,
    pub(super) script: Asset,
    pub(super) icon: Asset,
}

/// As they are served.
pub(super) static ASSETS: LazyLock<Assets> = LazyLock::new(|| Assets {
    style: Asset::new("style", "css", "text/css; charset=utf-8", include_str!("assets/style.css")),
    script: Asset::new(
        "live",
        "js",
        "text/javascript; charset=utf-8",
        include_str!("assets/live.js"),
    ),
    icon: Asset::new("icon", "svg", "image/svg+xml", include_str!("assets/icon.svg")),
});

impl Asset {
    fn new(stem: &str, ending: &str, media: &'static str, text: &'static str) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(text.as_bytes());
        Self { path: format!("/assets/{stem}-{:016x}.{ending}", hasher.finish()), media, text }
    }
}

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/assets/{name}", get(serve))
}

async fn serve(Path(name): Path<String>) -> Response {
    let all = [&ASSETS.style, &ASSETS.script, &ASSETS.icon];
    let found = all.into_iter().find(|asset| asset.path.strip_prefix("/assets/") == Some(&name));
    let Some(asset) = found else { return nowhere() };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(asset.media)),
        (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable")),
    ];
    (headers, asset.text).into_response()
}

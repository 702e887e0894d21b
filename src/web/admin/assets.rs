//! The style sheet and the script. Their addresses change whenever they do.

use std::sync::LazyLock;

use axum::{
    http::header,
    response::{IntoResponse, Response},
};

use crate::{
    issue::render::palette::{ACCENT_DEFAULT, Palette},
    web::pages::sheet,
};

const MORE_STYLE: &str = include_str!("../pages/admin/admin.css");
const SCRIPT: &str = include_str!("../pages/admin/live.js");

static STYLE: LazyLock<String> = LazyLock::new(|| {
    let palette = Palette::new(ACCENT_DEFAULT).expect("the default accent is a colour");
    sheet(&palette, MORE_STYLE)
});

/// Changes with the style sheet and the script.
pub(super) static VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    digest.update(STYLE.as_bytes());
    digest.update(SCRIPT.as_bytes());
    data_encoding::HEXLOWER.encode(&digest.finish().as_ref()[..6])
});

pub(super) async fn style() -> Response {
    forever("text/css; charset=utf-8", &STYLE)
}

pub(super) async fn script() -> Response {
    forever("text/javascript; charset=utf-8", SCRIPT)
}

fn forever(content_type: &'static str, text: &'static str) -> Response {
    let cached = (header::CACHE_CONTROL, "public, max-age=31536000, immutable");
    ([(header::CONTENT_TYPE, content_type), cached], text).into_response()
}

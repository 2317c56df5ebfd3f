//! The page at `/`: shows a browser what happens here, by the WebSocket at `/stats` ([`super::stats`]). One document that loads nothing from anywhere: style,
//! script and uPlot (which draws the charts; MIT, its notice goes along) stand in it.
//!
//! Invariants: the page holds no figure and no setting, so whoever may not see those may have it; it runs the scripts and styles that stand in it and no other
//! (their hashes are in its Content-Security-Policy), whatever a channel is called, and speaks with this port alone.

use std::sync::OnceLock;

use aws_lc_rs::digest::{SHA256, digest};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const DOCUMENT: &str = include_str!("page.html");
const STYLES: [&str; 2] = [include_str!("uplot/uPlot.min.css"), include_str!("style.css")];
const UPLOT: [&str; 2] = [include_str!("uplot/LICENSE"), include_str!("uplot/uPlot.iife.min.js")];
const SCRIPT: &str = include_str!("page.js");

/// Where they go in the document.
const STYLE_PLACE: &str = "<!-- style -->";
const SCRIPT_PLACE: &str = "<!-- script -->";

struct Page {
    html: String,
    policy: HeaderValue,
}

/// Whether it is a browser that asks: others get the list of endpoints.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    headers.get_all(header::ACCEPT).iter().any(|accept| accept.to_str().is_ok_and(|accept| accept.contains("text/html")))
}

pub(super) fn page() -> Response {
    static PAGE: OnceLock<Page> = OnceLock::new();
    let page = PAGE.get_or_init(Page::make);
    let fixed = |name: HeaderName, value: &'static str| (name, HeaderValue::from_static(value));
    let headers = [
        fixed(header::CONTENT_TYPE, "text/html; charset=utf-8"),
        // Of another version the page may be another.
        fixed(header::CACHE_CONTROL, "no-store"),
        fixed(header::VARY, "Accept"),
        fixed(header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        fixed(header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, page.policy.clone()),
    ];
    (headers, page.html.as_str()).into_response()
}

impl Page {
    fn make() -> Page {
        let style = STYLES.concat();
        let uplot = format!("/*\n{}*/\n{}", UPLOT[0], UPLOT[1]);
        let scripts = [uplot.as_str(), SCRIPT];
        let tags = scripts.map(|script| format!("<script>{script}</script>")).concat();
        let html = DOCUMENT.replacen(STYLE_PLACE, &format!("<style>{style}</style>"), 1).replacen(SCRIPT_PLACE, &tags, 1);
        let policy = format!(
            "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            scripts.map(hash).join(" "),
            hash(&style)
        );
        Page { html, policy: HeaderValue::from_str(&policy).expect("words and base64") }
    }
}

/// As a Content-Security-Policy names what stands between two tags.
fn hash(text: &str) -> String {
    format!("'sha256-{}'", STANDARD.encode(digest(&SHA256, text.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole_and_loads_nothing() {
        let page = Page::make();
        assert!(!page.html.contains(STYLE_PLACE) && !page.html.contains(SCRIPT_PLACE));
        assert_eq!((page.html.matches("<script").count(), page.html.matches("</script").count()), (2, 2), "none ends before its end");
        assert_eq!((page.html.matches("<style").count(), page.html.matches("</style").count()), (1, 1));
        assert!(page.html.contains("Permission is hereby granted"), "uPlot's notice goes along");
        for tag in ["src=", "<link", "@import", "url("] {
            assert!(!page.html.contains(tag), "{tag}");
        }
        for attribute in [" style=", " onclick=", " onload="] {
            assert!(!DOCUMENT.contains(attribute), "{attribute} would need another policy");
        }
        let policy = page.policy.to_str().unwrap();
        assert!(!policy.contains("unsafe") && policy.matches("sha256-").count() == 3, "{policy}");
    }
}

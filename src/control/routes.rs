//! What the control port serves: a row for each endpoint, from which come the router, the page at `/`, and what 404 and 405 name.
//!
//! Invariant: an endpoint is a row here and a handler in a file beside this one, and nothing else.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State as Shared};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};

use super::{
    State, answer, channels, connections, dashboard, demo, disconnect, drain, health, history, hosts, info, marks, metrics, presence,
    publish, reload, revoke, room, stats, tally, token,
};

struct Route {
    /// GET answers HEAD as well.
    method: Method,
    path: &'static str,
    /// What it answers, for the page at `/`.
    help: &'static str,
    /// Its answer costs something, so only a few are made at once ([`crate::limits::control::READS_MAX`]). A handler that bounds itself is not.
    is_costly: bool,
    handler: fn(MethodFilter) -> MethodRouter<Arc<State>>,
}

static ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "/healthz",
        help: "200 while this process answers at all",
        is_costly: false,
        handler: |method| on(method, health::healthz),
    },
    Route {
        method: Method::GET,
        path: "/readyz",
        help: "200 while messages flow, 503 with the reason while they do not",
        is_costly: false,
        handler: |method| on(method, health::readyz),
    },
    Route {
        method: Method::GET,
        path: "/metrics",
        help: "every counter, for Prometheus (OpenMetrics if the scraper accepts it)",
        is_costly: true,
        handler: |method| on(method, metrics::metrics),
    },
    Route {
        method: Method::GET,
        path: "/info",
        help: "version, addresses, shards, settings",
        is_costly: true,
        handler: |method| on(method, info::info),
    },
    Route {
        method: Method::GET,
        path: "/stats",
        help: "a WebSocket: what happens here, once a second; the page at / and `campanile top` show it",
        is_costly: false,
        handler: |method| on(method, stats::stats),
    },
    Route {
        method: Method::GET,
        path: "/channels",
        help: "the channels served now, ?from=N&limit=1..1000; with scope=cluster those of all nodes",
        is_costly: true,
        handler: |method| on(method, channels::channels),
    },
    Route {
        method: Method::GET,
        path: "/presence",
        help: "how many subscribers a channel has over all nodes, ?channel=NAME (or connections, user=NAME)",
        is_costly: true,
        handler: |method| on(method, presence::presence),
    },
    Route {
        method: Method::GET,
        path: "/history",
        help: "what is kept of a channel, ?channel=NAME&limit=1..256&since=EPOCH-SEQ (or before)",
        is_costly: true,
        handler: |method| on(method, history::history),
    },
    Route {
        method: Method::GET,
        path: "/connections",
        help: "who is connected here, ?user=NAME (or token, channel)&from=PLACE&limit=1..1000",
        is_costly: true,
        handler: |method| on(method, connections::connections),
    },
    Route {
        method: Method::GET,
        path: demo::PATH,
        help: "a page with a notification bell that shows what is published, ?channel=NAME",
        is_costly: false,
        handler: |method| on(method, demo::demo),
    },
    Route {
        method: Method::POST,
        path: "/reload",
        help: "reads the settings and keys again, as SIGHUP does; {\"check\": true} only says what that would change",
        is_costly: true,
        handler: |method| on(method, reload::post),
    },
    Route {
        method: Method::POST,
        path: "/publish",
        help: "{\"channel\": NAME, \"data\": any JSON} publishes one message",
        is_costly: false,
        handler: |method| on(method, publish::publish),
    },
    Route {
        method: Method::POST,
        path: "/mark_read",
        help: "{\"user\": NAME, \"channel\": NAME, \"seq\": N}: it has read the durable channel up to there",
        is_costly: true,
        handler: |method| on(method, marks::mark_read),
    },
    Route {
        method: Method::GET,
        path: "/unread",
        help: "what a user has not read, ?user=NAME&channel=NAME (up to 128 of them)",
        is_costly: true,
        handler: |method| on(method, marks::unread),
    },
    Route {
        method: Method::POST,
        path: "/disconnect",
        help: "{\"user\": NAME} (or client, token, channel) ends their connections",
        is_costly: true,
        handler: |method| on(method, disconnect::disconnect),
    },
    Route {
        method: Method::POST,
        path: "/revoke",
        help: "{\"token\": JTI} or {\"user\": NAME, \"issued_before\": SECONDS}: honoured no more, by all nodes",
        is_costly: true,
        handler: |method| on(method, revoke::revoke),
    },
    Route {
        method: Method::POST,
        path: "/drain",
        help: "as SIGTERM: no new connections, and those that are open go one after the other; then the process ends",
        is_costly: true,
        handler: |method| on(method, drain::drain),
    },
    Route {
        method: Method::POST,
        path: "/shed",
        help: "{\"percent\": N} asks so many of the connections to go and come back elsewhere",
        is_costly: true,
        handler: |method| on(method, drain::shed),
    },
    Route {
        method: Method::GET,
        path: "/",
        help: "this page; to a browser, one that shows what happens",
        is_costly: false,
        handler: |method| on(method, index),
    },
];

/// The endpoints, without a server around them.
pub(super) fn router(state: Arc<State>) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        let method = MethodFilter::try_from(route.method.clone()).expect("a method that axum knows");
        let mut served = (route.handler)(method);
        if route.is_costly {
            served = served.route_layer(from_fn_with_state(state.clone(), one_of_few));
        }
        router = router.route(route.path, served);
    }
    router
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(state.clone(), token::check))
        .layer(from_fn_with_state(state.clone(), hosts::check))
        .layer(from_fn_with_state(state.clone(), tally::count))
        .with_state(state)
}

/// Lets a request that costs something in when there is room; its place is free again when the answer is written.
async fn one_of_few(Shared(state): Shared<Arc<State>>, request: Request, next: Next) -> Response {
    let Some(permit) = state.reads.enter(state.timeouts.permit).await else {
        return answer::Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many requests are under way; try again").into_response();
    };
    room::hold(next.run(request).await, permit)
}

async fn index(Shared(state): Shared<Arc<State>>, headers: HeaderMap) -> Response {
    if dashboard::is_wanted(&headers) {
        return dashboard::page();
    }
    let mut page = format!("Campanile {}, control port\n\n", state.facts.version);
    for (endpoint, route) in endpoints().iter().zip(ROUTES) {
        page.push_str(&format!("  {endpoint:<16} {}\n", route.help));
    }
    answer::text(StatusCode::OK, page)
}

/// Method and path of each.
pub(super) fn endpoints() -> Vec<String> {
    ROUTES.iter().map(|route| format!("{} {}", route.method, route.path)).collect()
}

async fn not_found(uri: Uri) -> Response {
    let error = format!("there is no {} on the control port", uri.path());
    answer::json(StatusCode::NOT_FOUND, serde_json::json!({ "error": error, "endpoints": endpoints() }))
}

/// The router adds `Allow`.
async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    let error = format!("{method} is not served at {}", uri.path());
    answer::json(StatusCode::METHOD_NOT_ALLOWED, serde_json::json!({ "error": error, "endpoints": endpoints() }))
}

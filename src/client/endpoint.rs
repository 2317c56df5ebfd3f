//! A place at which HTTP is spoken, by its URL: how it is dialled, over TLS or in the clear. Called by the commands that ask a control port behind a proxy.

use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use tungstenite::http::Uri;

use super::stream::Stream;
use super::tls::{Tls, Trust, complaint};
use crate::config::mask;
use crate::limits::client::CONNECT_TIMEOUT;

#[derive(Debug, Clone)]
pub struct Endpoint {
    host: String,
    port: u16,
    /// Host and port, as a request names them.
    authority: String,
    /// What all paths begin with, without a slash at its end.
    prefix: String,
    tls: Option<Box<Tls>>,
    /// As it may be shown.
    shown: String,
}

impl Endpoint {
    /// Reads `http://HOST[:PORT][/PATH]` or `https://…`, whose server is believed by `trust`.
    ///
    /// # Errors
    /// Says what is wrong with the URL, or with what `trust` names.
    pub fn read(text: &str, trust: Option<&Trust>) -> Result<Endpoint, String> {
        let shown = mask::url(text.trim_end_matches('/'));
        let accepted = "accepted: https://HOST[:PORT][/PATH] and http://HOST[:PORT][/PATH]; an address is given by --control";
        let uri: Uri = text.parse().map_err(|error| format!("{shown:?} is not a URL: {error}; {accepted}"))?;
        let (Some(scheme @ ("http" | "https")), Some(host), None) = (uri.scheme_str(), uri.host(), uri.query()) else {
            return Err(format!("{shown:?} is the URL of no control port; {accepted}"));
        };
        let is_secure = scheme == "https";
        if !is_secure && trust.is_some() {
            return Err(format!("{shown} shows no certificate that could be believed: give the URL by https://"));
        }
        let tls = is_secure.then(|| Tls::new(host, trust.unwrap_or(&Trust::default()))).transpose()?.map(Box::new);
        Ok(Endpoint {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 }),
            authority: uri.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")),
            prefix: uri.path().trim_end_matches('/').to_owned(),
            tls,
            shown,
        })
    }

    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// A path there, as a URL whose scheme says nothing of TLS.
    pub fn url(&self, scheme: &str, path: &str) -> String {
        format!("{scheme}://{}{}{path}", self.authority, self.prefix)
    }

    /// `patience`: of the handshake, and of each read and write after it.
    ///
    /// # Errors
    /// Says why it cannot be reached, to stand behind its URL.
    pub fn dial(&self, patience: Duration) -> Result<Stream, String> {
        let unreachable = |why: String| format!("cannot be reached ({why})");
        let socket = connect(&self.host, self.port, patience.min(CONNECT_TIMEOUT)).map_err(unreachable)?;
        let _ = socket.set_nodelay(true);
        let _ = socket.set_write_timeout(Some(patience));
        let stream = match &self.tls {
            None => Stream::plain(socket),
            Some(tls) => Stream::over_tls(socket, tls, patience)
                .map_err(|error| complaint(&error).unwrap_or_else(|| format!("cannot be reached over TLS ({error})")))?,
        };
        let _ = stream.socket().set_read_timeout(Some(patience));
        Ok(stream)
    }
}

/// The first address of a host that answers.
pub(super) fn connect(host: &str, port: u16, patience: Duration) -> Result<TcpStream, String> {
    let mut why = "the name has no address".to_owned();
    for address in (host, port).to_socket_addrs().map_err(|error| error.to_string())? {
        match TcpStream::connect_timeout(&address, patience) {
            Ok(stream) => return Ok(stream),
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let trust = Trust { is_insecure: true, ..Trust::default() };
        let endpoint = Endpoint::read("https://ops.example:8443/campanile/", Some(&trust)).unwrap();
        assert_eq!(endpoint.url("http", "/stats"), "http://ops.example:8443/campanile/stats");
        assert_eq!((endpoint.shown(), endpoint.port), ("https://ops.example:8443/campanile", 8443));
        let clear = Endpoint::read("http://[::1]", None).unwrap();
        assert_eq!((clear.url("ws", "/stats"), clear.host.as_str(), clear.port), ("ws://[::1]/stats".to_owned(), "::1", 80));
        assert_eq!(Endpoint::read("https://h", Some(&trust)).unwrap().port, 443);
        for (url, part) in [
            ("127.0.0.1:9090", "accepted: https://"),
            ("ws://h/ws", "no control port"),
            ("https://h/?token=x", "no control port"),
            ("http://h", "give the URL by https://"),
        ] {
            let reason = Endpoint::read(url, Some(&trust)).unwrap_err();
            assert!(reason.contains(part) && !reason.contains("token=x"), "{url}: {reason}");
        }
    }
}
